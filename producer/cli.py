"""The commands that give spectra to the stream."""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from producer import intake
from producer.dispatcher import Dispatcher
from producer.explorer.page import check_report
from producer.named import read_names
from producer.outcome import print_enqueued, print_outcome
from producer.report_cli import report_run
from producer.requeue import Selection, read_ids
from producer.requeue import requeue as requeue_jobs
from producer.run import Plan, carry_out, send_waiting
from producer.stack import check_stack
from producer.terminal import (
    console,
    counted,
    progress_bar,
    progress_console,
    reading,
    telling_interruption,
)
from worker.cli import Corrections, LaneName, Model, settings_with, tell_starter
from worker.database.session import exists, open_database, opened
from worker.errors import TransientError, UsageError
from worker.fingerprint import weights_sha256
from worker.settings import Settings, get_settings
from worker.signals import stopping_on_signals
from worker.tables.export import check_output, write_table
from worker.transport.client import broker_client


class Wanted(StrEnum):
    """Which spectra of a file are to be processed."""

    COADD = "coadd"
    VISIT = "visit"
    BOTH = "both"


class MissingFiles(StrEnum):
    """What becomes of spectra whose file is not there."""

    RECORD = "record"
    SKIP = "skip"


Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="apStar files, and folders that hold them."),
]
WantedOption = Annotated[Wanted, typer.Option("--kind", help="Process coadds, visits, or both.")]
Tag = Annotated[
    str, typer.Option("--tag", help="A name for this set of results; another one computes anew.")
]


def run(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", help="The table: .fits, .parquet, .csv, .ecsv or .vot.")
    ] = Path("labels.fits"),
    model: Model = None,
    corrections: Corrections = None,
    kind: WantedOption = Wanted.BOTH,
    tag: Tag = "",
    serial: Annotated[
        bool, typer.Option("--serial", help="One process, without Redis and workers.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Also a page to look at them: .html."),
    ] = None,
) -> None:
    """Turn apStar files into a table of labels.

    Brings up what is not there (an embedded redis-server, the workers, a SQLite database),
    processes every spectrum that has no result yet, writes the table, prints a summary and
    takes down what it brought up. After an interruption the same command goes on where it
    stopped. A spectrum that cannot be processed becomes a row that says why.
    """
    check_output(out)
    if report is not None:
        check_report(report)
    settings = settings_with(model, corrections)
    plan = Plan.make(paths, settings, wanted=kind.value, tag=tag)
    if settings.broker_url is not None and not serial:
        check_stack(settings, plan.weights)
    tell_starter(plan.weights)
    with telling_interruption():
        outcome = carry_out(plan, serial=serial, headers=reading, bar=progress_bar)
    write_table(outcome.table, out)
    print_outcome(outcome, plan.tag)
    console.print(f"{out}: {len(outcome.table)} rows", soft_wrap=True)
    if report is not None:
        report_run(report, outcome)


def enqueue(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="apStar files, and folders that hold them."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            metavar="FILE",
            help="The survey's own table, allStar or allVisit, of DR17 or SDSS-V: the coadds of "
            "the one, the visits of the other.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Where the star files of --summary lie: the folder that holds dr17/stars or "
            "1.3/stars, or a mirror of the archive. The data root unless given.",
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            metavar="FILE",
            help="Names, one a line; - reads them from the standard input: a path, or a "
            "spectrum_pk, natural_key or obj of the table of results.",
        ),
    ] = None,
    model: Model = None,
    kind: Annotated[
        Wanted | None,
        typer.Option(
            "--kind",
            help="Process coadds, visits, or both; without it both, and of --summary what it "
            "lists.",
        ),
    ] = None,
    tag: Tag = "",
    lane: Annotated[
        LaneName, typer.Option("--lane", help="`live` goes before `bulk` in every queue.")
    ] = LaneName.BULK,
    missing: Annotated[
        MissingFiles,
        typer.Option(
            "--missing",
            help="What becomes of spectra that are named but whose file is not there: a row that "
            "says so, or nothing.",
        ),
    ] = MissingFiles.RECORD,
) -> None:
    """Give spectra to a running stack and return; see `astronn-stream up`."""
    if not paths and summary is None and ids is None:
        raise UsageError("Say which spectra: PATH..., --summary FILE or --ids FILE.")
    settings = settings_with(model)
    with telling_interruption():
        enqueued = intake.enqueue(
            [*(paths or []), *(read_names(ids) if ids is not None else [])],
            summary=summary,
            root=root,
            kind=kind.value if kind else None,
            lane=lane.value,
            tag=tag,
            missing=missing.value,
            settings=settings,
            bar=progress_bar,
        )
    weights = weights_sha256(settings.weights_file)
    tell_starter(weights)
    with opened(settings.database_url) as engine:
        delay = _send(engine, settings, weights)
    print_enqueued(enqueued, skipped=missing is MissingFiles.SKIP)
    _tell_delay(delay)


def requeue(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="MINUTES",
            min=0,
            max=1e7,
            help="Sent, or done, longer ago than this.",
        ),
    ] = None,
    no_result: Annotated[
        bool, typer.Option("--no-result", help="Jobs that ended without labels.")
    ] = False,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            metavar="FILE",
            help="Jobs of these spectra: their spectrum_pk, one a line; - reads them from the "
            "standard input. Their results are computed anew.",
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only jobs under this tag.")] = None,
    lane: Annotated[LaneName | None, typer.Option("--lane", help="Send them in this lane.")] = None,
) -> None:
    """Send jobs again: sent ones without a row, or with an option those without labels.

    The dispatcher does that by itself for what got lost; this is for whoever has repaired
    something. Options narrow each other.
    """
    if older_than is None and not no_result and ids is None:
        raise UsageError("Say which jobs: --older-than MINUTES, --no-result or --ids FILE.")
    selection = Selection(
        no_result=no_result,
        spectra=None if ids is None else read_ids(ids),
        older_than=None if older_than is None else timedelta(minutes=older_than),
        tag=tag,
    )
    settings = get_settings()
    if not exists(settings.database_url):
        raise UsageError("There is no database here yet; `astronn-stream enqueue` makes one.")
    with opened(settings.database_url) as engine:
        count = requeue_jobs(engine, selection, lane.value if lane else None)
        # Without weights of its own it leaves the sending to the stack's dispatcher.
        named = settings.model is not None
        delay = _send(engine, settings, weights_sha256(settings.weights_file)) if named else None
    console.print(f"{counted(count, 'job')} enqueued again.")
    _tell_delay(delay)


def dispatcher() -> None:
    """Run the dispatcher: send what waits in the database, and again what got lost.

    A stack has one; more do no harm. It is configured by the environment, and feeds the
    workers that serve the weights of ASTRONN_STREAM_MODEL.
    """
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s: %(levelname)s/dispatcher] %(message)s"
    )
    settings = get_settings()
    tell_starter(weights_sha256(settings.weights_file))
    with (
        suppress(KeyboardInterrupt),
        stopping_on_signals(),
        closing(broker_client(settings)) as client,
    ):
        Dispatcher(open_database(settings.database_url), client, settings).run()


def _send(engine: Engine, settings: Settings, weights: str) -> TransientError | None:
    """Send what waits for these weights; why it could not be, if it could not."""
    try:
        send_waiting(engine, settings, weights)
    except TransientError as error:
        return error
    return None


def _tell_delay(delay: TransientError | None) -> None:
    if delay is not None:
        progress_console.print(
            f"{delay} The spectra wait in the database until a stack that serves their weights "
            "runs on it (`astronn-stream up`).",
            soft_wrap=True,
            markup=False,
        )


def mount(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    for command in (run, enqueue, requeue, dispatcher):
        app.command()(command)

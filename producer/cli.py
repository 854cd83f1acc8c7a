"""The command ``astronn-stream``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from sqlalchemy import Engine

import worker.cli
from producer.dispatcher import Dispatcher
from producer.requeue import Selection, read_ids
from producer.requeue import requeue as requeue_jobs
from producer.run import (
    Finished,
    Outcome,
    Plan,
    collect,
    register_files,
    run_serial,
    run_stream,
    send_waiting,
)
from worker import __version__
from worker.cli import Corrections, LaneName, Model, settings_with
from worker.database.session import exists, open_database, opened
from worker.embedded import broker_client, stopping_on_signals
from worker.errors import StreamError, TransientError, UsageError
from worker.network.checkpoint import weights_sha256
from worker.results.export import check_output, write_table
from worker.results.summary import Summary, summarise
from worker.settings import Settings, get_settings

console = Console(highlight=False)
#: Progress is for who watches; the summary alone is the output.
progress_console = Console(stderr=True, highlight=False)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="APOGEE spectra in, stellar labels with uncertainties out.\n\n"
    "`run` does all of it in one command. A survey runs `up` (or the services of "
    "docker-compose.yml) and feeds it with `enqueue`.\n\n"
    "Settings come from the environment, as ASTRONN_STREAM_DATABASE_URL, "
    "ASTRONN_STREAM_BROKER_URL, ASTRONN_STREAM_MODEL and so on; see the README.",
)


class Wanted(StrEnum):
    """Which spectra of a file are to be processed."""

    COADD = "coadd"
    VISIT = "visit"
    BOTH = "both"


Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="apStar files, and folders that hold them."),
]
WantedOption = Annotated[Wanted, typer.Option("--kind", help="Process coadds, visits, or both.")]
Tag = Annotated[
    str, typer.Option("--tag", help="A name for this set of results; another one computes anew.")
]


@app.command()
def run(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", help="The table: .fits, .parquet, .csv or .ecsv.")
    ] = Path("labels.fits"),
    model: Model = None,
    corrections: Corrections = None,
    kind: WantedOption = Wanted.BOTH,
    tag: Tag = "",
    serial: Annotated[
        bool, typer.Option("--serial", help="One process, without Redis and workers.")
    ] = False,
) -> None:
    """Turn apStar files into a table of labels.

    Brings up what is not there (an embedded redis-server, the workers, a SQLite database),
    processes every spectrum that has no result yet, writes the table, prints a summary and
    takes down what it brought up. After an interruption the same command goes on where it
    stopped. A spectrum that cannot be processed becomes a row that says why.
    """
    check_output(out)
    settings = settings_with(model, corrections)
    plan = Plan.make(paths, settings, wanted=kind.value, tag=tag)
    with _telling_interruption(), opened(settings.database_url) as engine:
        registered = register_files(engine, plan, _reading)
        started = time.perf_counter()
        if registered.open_jobs:
            process = run_serial if serial else run_stream
            with _bar("Processing", len(registered.open_jobs)) as advance:
                process(engine, plan, registered.open_jobs, advance)
        outcome = collect(engine, plan, registered, time.perf_counter() - started)
    write_table(outcome.table, out)
    _print_outcome(outcome, plan.tag)
    console.print(f"{out}: {len(outcome.table)} rows", soft_wrap=True)


@app.command()
def enqueue(
    paths: Paths,
    model: Model = None,
    kind: WantedOption = Wanted.BOTH,
    tag: Tag = "",
    lane: Annotated[
        LaneName, typer.Option("--lane", help="`live` goes before `bulk` in every queue.")
    ] = LaneName.BULK,
) -> None:
    """Give spectra to a running stack and return; see `astronn-stream up`."""
    settings = settings_with(model)
    plan = Plan.make(paths, settings, wanted=kind.value, tag=tag)
    with opened(settings.database_url) as engine:
        registered = register_files(engine, plan, _reading, lane=lane.value)
        delay = _send(engine, settings)
    console.print(
        f"{_count(len(registered.jobs), 'spectrum', 'spectra')} in "
        f"{_count(len(plan.files), 'file')}: {len(registered.waiting_jobs)} enqueued, "
        f"{len(registered.jobs) - len(registered.open_jobs)} had results, "
        f"{len(registered.open_jobs) - len(registered.waiting_jobs)} were on their way already.",
        soft_wrap=True,
    )
    _tell_delay(delay)


@app.command()
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
        delay = _send(engine, settings)
    console.print(f"{_count(count, 'job')} enqueued again.")
    _tell_delay(delay)


@app.command()
def dispatcher() -> None:
    """Run the dispatcher: send what waits in the database, and again what got lost.

    A stack has one; more do no harm. It is configured by the environment, and feeds the
    workers that serve the weights of ASTRONN_STREAM_MODEL.
    """
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s: %(levelname)s/dispatcher] %(message)s"
    )
    settings = get_settings()
    with (
        suppress(KeyboardInterrupt),
        stopping_on_signals(),
        closing(broker_client(settings)) as client,
    ):
        Dispatcher(open_database(settings.database_url), client, settings).run()


def _send(engine: Engine, settings: Settings) -> TransientError | None:
    """Send what waits, where these settings say to whom; why it could not be, if it could not."""
    if settings.model is not None:
        try:
            send_waiting(engine, settings, weights_sha256(settings.model))
        except TransientError as error:
            return error
    return None


def _tell_delay(delay: TransientError | None) -> None:
    if delay is not None:
        progress_console.print(
            f"{delay} The spectra wait in the database until a stack runs on it "
            "(`astronn-stream up`).",
            soft_wrap=True,
            markup=False,
        )


def _reading(files: Sequence[Path]) -> Iterator[Path]:
    with _bar("Reading headers", len(files)) as advance:
        for file in files:
            yield file
            advance(1)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Finished]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    watched = progress_console.is_terminal
    with Progress(
        *columns, console=progress_console, transient=True, disable=not watched
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def _print_outcome(outcome: Outcome, tag: str) -> None:
    summary = summarise(outcome.table)
    if outcome.processed == 0:
        console.print(
            f"Nothing to compute: all {summary.spectra} spectra have results"
            f"{f' under the tag {tag!r}' if tag else ''} already."
        )
    else:
        console.print(
            f"Processed {_count(outcome.processed, 'spectrum', 'spectra')} in "
            f"{outcome.seconds:.1f} s, {outcome.processed / outcome.seconds:.1f} per second"
            f"{_kept(summary, outcome)}."
        )
    _print_summary(summary)
    if outcome.other_provenance:
        console.print(
            f"[yellow]{outcome.other_provenance} results were made before with other "
            "corrections, seed or number of MC samples and are kept as they are; use another "
            "--tag to compute them anew.[/yellow]"
        )


def _kept(summary: Summary, outcome: Outcome) -> str:
    kept = summary.spectra - outcome.processed
    return f"; {kept} had results already" if kept else ""


def _print_summary(summary: Summary) -> None:
    console.print(
        f"{_count(summary.spectra, 'spectrum', 'spectra')} ({_count(summary.coadds, 'coadd')}, "
        f"{_count(summary.visits, 'visit')}): {summary.labelled} with labels, "
        f"{summary.spectra - summary.labelled} without.",
        soft_wrap=True,
    )
    flags = ", ".join(f"{count} {name}" for name, count in summary.flagged.items())
    console.print(
        f"Flagged: {summary.warn} flag_warn ({flags}), {summary.bad} flag_bad.", soft_wrap=True
    )
    for reason, count in summary.reasons.most_common():
        console.print(f"  {count} without labels: {reason}", soft_wrap=True, markup=False)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.print(f"astronn-stream {__version__}")
        raise typer.Exit


worker.cli.mount(app)


def main() -> None:
    """Run the command; errors that are meant for the user become one sentence.

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    try:
        app()
    except UsageError as error:
        _fail(error, 2)
    except StreamError as error:
        _fail(error, 1)


@contextmanager
def _telling_interruption() -> Iterator[None]:
    """Say how to go on after Ctrl-C; the command line's own handler would end without a word."""
    with stopping_on_signals():
        try:
            yield
        except KeyboardInterrupt:
            _fail("interrupted; the same command goes on where it stopped.", 130)


def _fail(error: object, status: int) -> None:
    progress_console.print(f"Error: {error}", soft_wrap=True, markup=False)
    sys.exit(status)

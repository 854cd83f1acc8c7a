"""The part of the command line that needs no producer: workers, the stack, results."""

from __future__ import annotations

import logging
import re
import time
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from worker.embedded import (
    EXIT_MISCONFIGURED,
    FLOWER,
    REDIS,
    WHOLE_STACK,
    LocalStack,
    broker_answers,
    stopping_on_signals,
)
from worker.errors import FatalError, TransientError, UsageError
from worker.messages import Stage
from worker.network.checkpoint import weights_sha256
from worker.network.starter import NOTICE, is_starter
from worker.outage import Outage
from worker.settings import Settings, get_settings, use_settings

console = Console()

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="FILE",
        help="Weights of the network, a PyTorch checkpoint; without it the starter weights.",
    ),
]
Corrections = Annotated[
    Path | None,
    typer.Option(
        "--corrections",
        metavar="FILE",
        help="Noise model: .pkl of the peers, .json or .toml. The starter weights have their own.",
    ),
]

ResultsTag = Annotated[str | None, typer.Option("--tag", help="Only results under this tag.")]
ResultsWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only these rows, by any column of the table: `snr > 100 and not flag_bad`.",
    ),
]
ResultsTable = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="Results as `export` writes them (.fits, .parquet, .csv, .ecsv, .vot); without it "
        "those in the database.",
    ),
]


class LaneName(StrEnum):
    """How urgent spectra are."""

    LIVE = "live"
    BULK = "bulk"


class Kind(StrEnum):
    """Which spectra are meant."""

    COADD = "coadd"
    VISIT = "visit"


class StageName(StrEnum):
    """The stages that have workers."""

    LOAD = "load"
    INFER = "infer"
    RECORD = "record"


def settings_with(model: Path | None = None, corrections: Path | None = None) -> Settings:
    """The settings of the environment with the command's options over them.

    Raises
    ------
    UsageError
        A file that an option names is not there.
    """
    if model is not None and model.is_dir():
        raise UsageError(
            f"--model {model}: this is a folder; `astronn-stream model convert` makes weights of "
            "astroNN's."
        )
    for option, path in (("--model", model), ("--corrections", corrections)):
        if path is not None and not path.is_file():
            raise UsageError(f"{option} {path}: there is no such file.")
    settings = get_settings().changed(model=model, corrections=corrections)
    use_settings(settings)
    return settings


def tell_starter(weights: str) -> None:
    """Say so where the weights with this SHA-256 are the starter weights."""
    if is_starter(weights):
        console.print(f"[yellow]{NOTICE}[/yellow]", highlight=False, soft_wrap=True)


def up(
    model: Model = None,
    corrections: Corrections = None,
    flower: Annotated[
        bool, typer.Option("--flower", help="Also start Flower on http://127.0.0.1:5555.")
    ] = False,
) -> None:
    """Run a local stack in the foreground: redis-server, the workers and the dispatcher.

    Ctrl-C stops it. Give it spectra from another terminal with `astronn-stream enqueue`. A
    redis-server is started only where ASTRONN_STREAM_BROKER_URL names none.
    """
    settings = settings_with(model, corrections)
    weights = weights_sha256(settings.weights_file)
    if settings.broker_url is None and broker_answers(settings):
        raise UsageError("A local stack for this database is running already.")
    tell_starter(weights)
    services = [*WHOLE_STACK]
    services += [REDIS] if settings.broker_url is None else []
    services += [FLOWER] if flower else []
    try:
        with stopping_on_signals():
            wait_for_database(settings.database_url, "up")
            _serve(LocalStack(settings, settings.stack_directory, services=services))
    except KeyboardInterrupt:
        console.print("The stack is down.")


def wait_for_database(url: str, action: str) -> None:
    """Bring the tables up to date, as soon as the database answers."""
    from worker.database.session import opened

    outage = Outage(action)
    while True:
        try:
            with opened(url):
                return outage.end()
        except TransientError as error:
            outage.begin(error)
            time.sleep(1)


def _serve(stack: LocalStack) -> None:
    with stack:
        console.print("The stack is starting; stop it with Ctrl-C.")
        while True:
            for name in stack.check():
                console.print(f"{name} died and was started again.")
            time.sleep(0.5)


def worker(
    stage: Annotated[StageName, typer.Argument(help="The stage whose queues it serves.")],
    lane: Annotated[
        LaneName | None,
        typer.Option("--lane", help="Serve this lane alone; for loaders."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What it is called, where a host has several of a kind."),
    ] = None,
) -> None:
    """Run one worker, configured by the environment, as docker-compose.yml starts it.

    A signal to stop (SIGTERM or Ctrl-C) lets it finish what it is at and give back the rest.
    """
    if lane is not None and stage is not StageName.LOAD:
        raise UsageError(f"A lane can be left to a loader; {stage} serves all of them.")
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise UsageError("--name takes letters, digits, points, hyphens and underscores.")
    try:
        _prepare(stage)
    except (FatalError, UsageError) as error:
        # The last line of a worker's log is what the local stack shows.
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(EXIT_MISCONFIGURED) from error
    from celery.app.trace import LOG_RECEIVED, LOG_REJECTED, LOG_RETRY

    from worker.app import app, task_module, worker_arguments

    served: Stage = stage.value
    # No other stage's, which would only cost time; and not by Celery, which would look for
    # whatever that module imports in the current folder first.
    import_module(task_module(served))
    app.conf.include = ()
    # The tasks tell an outage once; Celery would tell it of each message, again and again.
    told = {LOG_RECEIVED, LOG_RETRY, LOG_REJECTED}
    for logs in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(logs).addFilter(lambda record: record.msg not in told)
    app.worker_main(worker_arguments(served, None if lane is None else lane.value, name))


def _prepare(stage: StageName) -> None:
    """Open what the stage needs, so that a mistake stops the worker before it takes messages."""
    match stage:
        case StageName.INFER:
            from worker.stages.infer import open_inference

            tell_starter(open_inference().weights)
        case StageName.RECORD:
            from worker.stages.record import noise_model

            noise_model(get_settings().corrections)


def export(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="One table: .fits, .parquet, .csv, .ecsv, .vot"),
    ] = None,
    survey: Annotated[
        Path | None,
        typer.Option(
            "--survey",
            metavar="FOLDER",
            help="Coadds and visits apart, as astraAllStarAstroNN and astraAllVisitAstroNN.",
        ),
    ] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only these spectra.")] = None,
    tag: ResultsTag = None,
    where: ResultsWhere = None,
) -> None:
    """Write the results in the database as tables with units and descriptions."""
    from worker.database.session import existing
    from worker.results.export import write_results, write_survey
    from worker.results.read import Wanted
    from worker.results.where import condition

    wanted = Wanted(kind=kind, tag=tag, where=None if where is None else condition(where))
    # A signal to stop must not leave half a table in a hidden folder.
    with stopping_on_signals(), existing(get_settings().database_url) as engine:
        if out is not None and survey is None:
            written = [write_results(engine, wanted, out)]
        elif survey is not None and out is None:
            written = write_survey(engine, wanted, survey)
        else:
            raise UsageError("Say where to: --out FILE, or --survey FOLDER.")
    for each in written:
        text = f"{each.path}: {each.rows} rows"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        if each.notice is not None:
            console.print(f"[yellow]{each.notice}[/yellow]", highlight=False, soft_wrap=True)


def database_upgrade() -> None:
    """Bring the database's tables up to date; does nothing where they are."""
    from worker.database.session import opened

    with opened(get_settings().database_url):
        pass
    console.print("The database is up to date.")


def mount(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    for command in (up, worker, export):
        app.command()(command)
    database = typer.Typer(help="The database's tables.", no_args_is_help=True)
    database.command("upgrade")(database_upgrade)
    app.add_typer(database, name="db")

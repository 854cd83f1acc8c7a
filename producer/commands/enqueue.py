"""The command `enqueue`: spectra for a stack that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from producer.commands.options import (
    LaneName,
    MissingFiles,
    Model,
    Tag,
    Wanted,
    settings_with,
    tell_starter,
)
from producer.commands.screen import progress_bar, progress_console, telling_interruption
from producer.commands.summary import print_enqueued
from producer.ledger import enqueue as intake
from producer.ledger.release import send_waiting
from producer.sources.names import read_names
from worker.database.session import opened
from worker.errors import TransientError, UsageError
from worker.fingerprint import weights_sha256
from worker.settings import Settings


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
    with opened(settings.database_url) as database:
        delay = send(database, settings, weights)
    print_enqueued(enqueued, skipped=missing is MissingFiles.SKIP)
    tell_delay(delay)


def send(database: Engine, settings: Settings, weights: str) -> TransientError | None:
    """Send what waits for these weights; why it could not be, if it could not."""
    try:
        send_waiting(database, settings, weights)
    except TransientError as error:
        return error
    return None


def tell_delay(delay: TransientError | None) -> None:
    """Say why nothing could be sent, where that is so."""
    if delay is not None:
        progress_console.print(
            f"{delay} The spectra wait in the database until a stack that serves their weights "
            "runs on it (`astronn-stream up`).",
            soft_wrap=True,
            markup=False,
        )

"""The command `enqueue`: spectra for a stack that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.notice import tell_simulated, tell_weights
from producer.commands.options import LaneOption, Model, Tag, settings_with
from producer.commands.screen import progress_bar, telling_interruption
from producer.commands.summary import print_enqueued, tell_waiting
from producer.ledger import enqueue as intake
from producer.ledger.enqueue import Missing
from producer.ledger.served import why_nothing_is_sent
from producer.sources.files import Wanted, files_of
from producer.sources.names import read_names
from worker.errors import UsageError
from worker.identity import weights_sha256


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
    lane: LaneOption = "bulk",
    missing: Annotated[
        Missing,
        typer.Option(
            "--missing",
            help="What becomes of spectra that are named but whose file is not there: a row that "
            "says so, or nothing.",
        ),
    ] = "record",
) -> None:
    """Write into the database which spectra are wanted, and return.

    The dispatcher of a stack sends them; see `astronn-stream up`.
    """
    if not paths and summary is None and ids is None:
        raise UsageError("Say which spectra: PATH..., --summary FILE or --ids FILE.")
    settings = settings_with(model)
    with telling_interruption():
        enqueued = intake.enqueue(
            [*(paths or []), *(read_names(ids) if ids is not None else [])],
            summary=summary,
            root=root,
            kind=kind,
            lane=lane,
            tag=tag,
            missing=missing,
            settings=settings,
            bar=progress_bar,
        )
    weights = weights_sha256(settings.weights_file)
    tell_weights(weights)
    tell_simulated(weights, files_of(paths or []))
    print_enqueued(enqueued, skipped=missing == "skip")
    if enqueued.waiting:
        tell_waiting(why_nothing_is_sent(settings, weights))

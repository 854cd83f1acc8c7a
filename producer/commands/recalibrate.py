"""The command `recalibrate`: another noise model for the rows in the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import ResultsTag, ResultsWeights, configured_database
from producer.commands.screen import progress_bar, say, telling_interruption
from worker.errors import UsageError
from worker.text import counted

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.results.recalibration import Recalibrated


def recalibrate(
    corrections: Annotated[
        Path, typer.Argument(metavar="CORRECTIONS", help="Noise model: .json, .toml or .pkl.")
    ],
    tag: ResultsTag = None,
    weights: ResultsWeights = None,
) -> None:
    """Apply another noise model to the results in the database.

    Uncertainties are computed anew from those of the network, flags from these, as if the
    spectra had been recorded with this noise model; it is all done, or nothing of it.
    Running workers keep the one they were started with: start them anew with it first.
    """
    from worker.database.session import opened
    from worker.results.noise_model import check_fits, read_noise_model
    from worker.results.recalibration import concerned
    from worker.results.recalibration import recalibrate as recalibrate_rows

    noise_model = read_noise_model(corrections)
    with opened(configured_database()) as database, telling_interruption("nothing was changed"):
        sha256, total = _one_set(database, weights, tag)
        check_fits(noise_model, corrections, sha256)
        conditions = concerned(noise_model, sha256, tag)
        with progress_bar("Recalibrating", total) as advance:
            result = recalibrate_rows(database, noise_model, conditions, advance)
    _tell_recalibrated(result, total)


def _one_set(database: Engine, weights: str | None, tag: str | None) -> tuple[str, int]:
    """The SHA-256 of the weights that are meant, and how many rows have their labels."""
    from worker.calibration.read_repeats import asked, matches
    from worker.results.recalibration import weights_of

    sets = [
        (sha256, name, rows)
        for sha256, name, rows in weights_of(database, tag)
        if weights is None or matches(weights, name, sha256)
    ]
    if not sets:
        raise UsageError(f"There are no rows with labels {asked(weights, tag)}.")
    if len(sets) > 1:
        raise UsageError(
            "The rows come from several weights, which want noise models of their own; choose "
            "one by --weights (name, or beginning of the SHA-256):\n"
            + "\n".join(f"{name} ({sha256[:12]}), {rows} rows" for sha256, name, rows in sets)
        )
    sha256, _, rows = sets[0]
    return sha256, rows


def _tell_recalibrated(result: Recalibrated, total: int) -> None:
    kept = f"; {total - result.rows} had this noise model already" if total > result.rows else ""
    say(f"{counted(result.rows, 'row')} recalibrated{kept}.")
    changes = [
        f"{flag.column}: {result.gained[flag]} gained, {result.lost[flag]} lost"
        for flag in result.gained
        if result.gained[flag] or result.lost[flag]
    ]
    details = f" ({'; '.join(changes)})" if changes else ""
    say(f"{counted(result.flags_changed, 'row')} changed flags{details}.")

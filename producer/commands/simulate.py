"""The command ``astronn-stream simulate``: a simulated survey whose truth is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from producer.commands.screen import progress_bar, progress_console, say, telling_interruption
from producer.simulation.star_models import Model
from worker.errors import UsageError
from worker.settings import get_settings
from worker.text import counted

if TYPE_CHECKING:
    from producer.simulation.survey import Survey, Written
    from producer.simulation.truth import Truth


#: Files per minute: a few a day, and far more than a machine writes.
_SLOWEST, _FASTEST = 0.002, 1e6


def simulate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder to write to: a new one, or one to go on with."
        ),
    ],
    stars: Annotated[int, typer.Option("--stars", min=1, max=10_000_000, help="How many.")] = 200,
    visits: Annotated[
        int, typer.Option("--visits", min=1, max=99, help="Most visits to a star.")
    ] = 3,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of all that is random.")
    ] = 0,
    layout: Annotated[
        Literal["dr13", "dr17", "sdss5", "mixed"],
        typer.Option("--layout", help="The era; `mixed` takes the three in turn."),
    ] = "sdss5",
    snr: Annotated[
        tuple[float, float],
        typer.Option("--snr", metavar="LOW HIGH", help="S/N per pixel of the visits, 1 to 10000."),
    ] = (10.0, 250.0),
    like: Annotated[
        list[Model],
        typer.Option(
            "--like",
            help="Stars like those of a published model of real spectra; several take turns. "
            "Else from the simulator's own lines, with all 22 labels.",
        ),
    ] = [],  # noqa: B006 - typer's form of a repeated option
    processes: Annotated[
        int, typer.Option("--processes", min=0, max=1024, help="0: one per core.")
    ] = 0,
    live: Annotated[
        float | None,
        typer.Option(
            "--live",
            metavar="RATE",
            help="Drop the files as a night would, in bursts, so many per minute; stars come "
            "back with more visits.",
        ),
    ] = None,
) -> None:
    """Write a simulated survey: apStar files of stars whose labels are known.

    The true labels are in DIR/truth.ecsv, which `model train --labels` takes. The same options
    give the same bytes. After an interruption the same command goes on where it stopped, with
    or without --live. The spectra look like APOGEE's, but they are no data: every file says so.
    """
    if not (1 <= snr[0] <= snr[1] <= 10_000):
        raise UsageError("--snr takes the lowest and the highest S/N, both from 1 to 10000.")
    if live is not None and not (_SLOWEST <= live <= _FASTEST):
        raise UsageError(
            f"--live takes a rate in files per minute, from {_SLOWEST:g} to {_FASTEST:.0f}."
        )
    # Slow to import, and of no use to the other commands.
    from producer.simulation.survey import Survey
    from producer.simulation.truth import Truth

    survey = Survey(stars, visits, seed, layout, snr, tuple(like))
    truth = Truth.of(folder, survey.settings())
    with telling_interruption():
        if live is None:
            _write(survey, folder, truth, processes or get_settings().loaders + 1)
        else:
            _write_live(survey, folder, truth, live)


@dataclass
class _Tally:
    """What has been written so far."""

    files: int = 0
    spectra: int = 0
    size: int = 0

    def add(self, written: Written) -> None:
        self.files += 1
        self.spectra += 1 + written.row.n_visits
        self.size += written.size


def _write(survey: Survey, folder: Path, truth: Truth, processes: int) -> None:
    from producer.simulation.survey import write_survey

    with _summary(truth) as tally, progress_bar("Writing stars", survey.stars) as advance:
        advance(len(truth))

        def told(written: Written) -> None:
            tally.add(written)
            advance(1)

        write_survey(survey, folder, truth, processes, told)


def _write_live(survey: Survey, folder: Path, truth: Truth, rate: float) -> None:
    from producer.simulation.night import write_live

    with _summary(truth) as tally, progress_bar("Stars complete", survey.stars) as advance:
        advance(truth.complete)
        watched = progress_console.is_terminal

        def told(written: Written) -> None:
            tally.add(written)
            advance(int(written.row.complete))
            if not watched:
                _print_file(written)

        write_live(survey, folder, truth, rate, told)


def _print_file(written: Written) -> None:
    row = written.row
    say(
        f"{row.path}: visit {row.n_visits} of {row.n_visits_planned}, S/N {row.snr:.0f}",
        to=progress_console,
    )


@contextmanager
def _summary(truth: Truth) -> Iterator[_Tally]:
    """Say at the end, also at an early one, what was written."""
    tally, there, started = _Tally(), len(truth), time.perf_counter()
    try:
        yield tally
    finally:
        if tally.files:
            _print_tally(tally, there, time.perf_counter() - started)
    if not tally.files:
        say(f"Nothing to write: all {counted(there, 'star')} are there.")
    say(f"Truth: {truth.path}")


def _print_tally(tally: _Tally, there: int, seconds: float) -> None:
    before = f"; {counted(there, 'star')} were there already" if there else ""
    say(
        f"{counted(tally.files, 'file')} with {counted(tally.spectra, 'spectrum', 'spectra')} "
        f"({tally.size / 1e6:.1f} MB) in {seconds:.1f} s, {tally.files / seconds:.1f} files per "
        f"second{before}."
    )

"""``astronn-stream demo``: a made-up survey through the stream, and what came out of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table as Screen

from producer.outcome import print_outcome
from producer.run import Outcome, Plan, carry_out
from producer.terminal import console, progress_bar, reading, telling_interruption
from worker.cli import tell_starter
from worker.labels import LABELS
from worker.messages import COADD, SpectrumReference
from worker.results.export import write_table
from worker.settings import PREFIX, get_settings, use_settings

if TYPE_CHECKING:
    from astropy.table import Table

    from producer.simulation.truth import Truth
    from worker.training.evaluation import Evaluated

_SURVEY, _DATABASE, _LABELS, _PAGE = "survey", "demo.sqlite", "labels.fits", "demo.md"
#: Visits to a star at most.
_VISITS = 3
#: The demonstration keeps to itself, whatever stack, database and weights are configured.
_ITS_OWN = ("BROKER_URL", "ARRAYS_URL", "MODEL", "CORRECTIONS")
#: A star is shown that is bright enough for its abundances to mean something.
_SHOWN_SNR = 80.0

Floats = NDArray[np.float64]


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where everything goes; may be there from before.")
    ] = Path("astronn-demo"),
    stars: Annotated[int, typer.Option("--stars", min=10, max=100_000, help="How many.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the made-up survey.")] = 0,
) -> None:
    """Show the stream at work: make up a survey, process it, compare with the truth.

    Writes apStar files of made-up stars, runs them through the whole stream with the starter
    weights, and compares the labels with those that the spectra were made from: a table and
    pictures in DIR. The same command again uses what is there.
    """
    with telling_interruption():
        truth = _make_survey(folder / _SURVEY, stars, seed)
        outcome = _process(folder)
        write_table(outcome.table, folder / _LABELS)
        comparison = Comparison.of(outcome.table, truth)
        _draw(folder, comparison)
    print_outcome(outcome, "")
    _print_comparison(comparison)
    console.print(f"Pictures and tables: {folder / _PAGE}", soft_wrap=True, markup=False)


def _make_survey(folder: Path, stars: int, seed: int) -> Truth:
    from producer.simulation.survey import Survey, write_survey
    from producer.simulation.truth import Truth

    survey = Survey(stars, _VISITS, seed, "mixed")
    truth = Truth.of(folder, survey.settings())
    with progress_bar("Making up stars", stars) as advance:
        advance(len(truth))
        write_survey(survey, folder, truth, get_settings().loaders + 1, lambda _: advance(1))
    return truth


def _process(folder: Path) -> Outcome:
    """The survey through the stream, with a database of its own and the starter weights."""
    for name in _ITS_OWN:
        os.environ.pop(PREFIX + name, None)
    get_settings.cache_clear()
    settings = get_settings().changed(
        database_url=f"sqlite:///{folder / _DATABASE}", data_root=folder / _SURVEY
    )
    use_settings(settings)
    plan = Plan.make([folder / _SURVEY], settings, wanted="both", tag="")
    tell_starter(plan.weights)
    return carry_out(plan, serial=False, headers=reading, bar=progress_bar)


@dataclass(frozen=True)
class Comparison:
    """Results with labels, and the truth of each, row by row.

    ``known`` is ``(n, 22)`` in the order of :data:`worker.labels.LABELS`.
    """

    table: Table
    known: Floats

    @classmethod
    def of(cls, table: Table, truth: Truth) -> Comparison:
        """Find the truth of each row by its file."""
        known = truth.table()
        names = [label.name for label in LABELS]
        labels = {row["path"]: [row[name] for name in names] for row in known}
        table = table[~np.asarray(table["flag_no_result"])]
        return cls(table, np.array([labels[path] for path in table["path"]]))

    def column(self, prefix: str) -> Floats:
        """All labels of the results, or with ``e_`` their uncertainties, ``(n, 22)``."""
        names = [prefix + label.name for label in LABELS]
        return np.column_stack([np.asarray(self.table[name], dtype=np.float64) for name in names])

    @property
    def coadds(self) -> NDArray[np.bool_]:
        """Which rows are coadds."""
        return np.array([kind == COADD for kind in self.table["kind"]], dtype=np.bool_)

    def evaluated(self) -> Evaluated:
        """As the pictures of a training's report want it."""
        from worker.training.evaluation import Evaluated

        snr = np.asarray(self.table["snr"].filled(np.nan), dtype=np.float64)
        nothing = np.zeros(len(snr), dtype=np.bool_)
        return Evaluated(self.column(""), self.column("e_"), self.known, snr, nothing)


def _draw(folder: Path, comparison: Comparison) -> None:
    """The pictures, and the page that shows them."""
    from producer.demo_figures import draw_planes, draw_star
    from worker.training.figures import draw_predicted, draw_residuals

    with progress_bar("Drawing", 4) as advance:
        coadds = comparison.coadds
        labels, errors = comparison.column(""), comparison.column("e_")
        draw_planes(folder / "planes.png", comparison.known[coadds], labels[coadds], errors[coadds])
        advance(1)
        star = _shown_star(comparison)
        draw_star(
            folder / "star.png",
            _normalised(folder / _SURVEY, str(comparison.table["path"][star[0]])),
            comparison.table[star],
            comparison.known[star[0]],
        )
        advance(1)
        evaluated = comparison.evaluated()
        draw_predicted(folder / "predicted.png", evaluated)
        advance(1)
        draw_residuals(folder / "residuals.png", evaluated)
        advance(1)
    (folder / _PAGE).write_text("\n".join(_page(comparison)) + "\n")


def _shown_star(comparison: Comparison) -> Sequence[int]:
    """The rows of one star, its coadd first: several visits, and good enough to look at."""
    table = comparison.table
    good = comparison.coadds & (np.asarray(table["snr"]) > _SHOWN_SNR)
    wanted = np.flatnonzero(good & (np.asarray(table["n_visits"]) == _VISITS))
    first = int(wanted[0]) if len(wanted) else int(np.flatnonzero(comparison.coadds)[0])
    rows = np.flatnonzero(np.asarray(table["path"]) == table["path"][first])
    return [first, *(int(row) for row in rows if row != first)]


def _normalised(folder: Path, path: str) -> Floats:
    """A coadd as the network reads it."""
    from worker.spectra.apstar import file_version
    from worker.spectra.load import load_spectra

    reference = SpectrumReference(
        job=0, spectrum=0, path=path, member=COADD, file_version=file_version(folder / path)
    )
    return np.asarray(load_spectra([reference], folder, "and").flux[0], dtype=np.float64)


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line for each label: what was found against the truth, in coadds of good S/N."""
    from worker.training.statistics import spread, within

    good = comparison.coadds & (np.asarray(comparison.table["snr"]) > 100)
    residuals = (comparison.column("") - comparison.known)[good]
    errors = comparison.column("e_")[good]
    lines: list[tuple[str, ...]] = []
    for position, label in enumerate(LABELS):
        numbers = spread(residuals[:, position])
        fractions = within(residuals[:, position] / errors[:, position])
        if fractions is None:
            continue
        digits = 0 if label.unit == "K" else 3
        lines.append(
            (
                f"{label.name} ({label.unit})",
                f"{numbers['bias']:.{digits}f}",
                f"{numbers['scatter']:.{digits}f}",
                f"{np.median(errors[:, position]):.{digits}f}",
                f"{100 * fractions[0]:.0f} %",
            )
        )
    return lines


_HEADINGS = ("label", "bias", "scatter", "typical uncertainty", "within 1 sigma")


def _print_comparison(comparison: Comparison) -> None:
    screen = Screen(title="Against the truth: coadds of S/N above 100", title_justify="left")
    for heading in _HEADINGS:
        screen.add_column(heading, justify="left" if heading == "label" else "right")
    for line in _rows(comparison):
        screen.add_row(*line)
    console.print(screen)


def _page(comparison: Comparison) -> list[str]:
    return [
        "# A made-up survey through the stream",
        "",
        "No telescope saw these stars: `astronn-stream simulate` made them up, and the starter",
        "weights, which were trained on such stars, found their labels again.",
        "",
        "## Against the truth: coadds of S/N above 100",
        "",
        "Bias is the median of what was found less the truth, scatter 1.4826 times the median",
        "absolute deviation. Honest uncertainties hold the truth within 1 sigma in 68 % of stars.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|---|---:|---:|---:|---:|",
        *(f"| {' | '.join(line)} |" for line in _rows(comparison)),
        "",
        "## Where the stars are",
        "![Kiel diagram and abundances, truth and results](planes.png)",
        "",
        "## One star",
        "![Its spectrum and its abundances](star.png)",
        "",
        "## Every label against the truth, coadds and visits",
        "![Predicted against known](predicted.png)",
        "",
        "## How far off, by signal to noise",
        "![Residuals against S/N](residuals.png)",
    ]

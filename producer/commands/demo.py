"""``astronn-stream demo``: a simulated survey through the stream, and what came out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from producer.commands.notice import tell_weights
from producer.commands.screen import progress_bar, reading, say, telling_interruption
from producer.commands.summary import print_labels, print_outcome
from producer.ledger.plan import Plan
from producer.running.run import carry_out, results_of
from worker.array_types import Floats
from worker.errors import FatalError
from worker.identity import COADD, weights_sha256
from worker.labels import LABEL_NAMES
from worker.results.snr import known_snr
from worker.settings import ALSO, Settings, get_settings
from worker.starter.bundled import DEMONSTRATION
from worker.tables.export import write_table
from worker.which_labels import known_labels, names_of

if TYPE_CHECKING:
    from astropy.table import Table

    from producer.simulation.truth import Truth
    from worker.comparison.evaluation import Evaluated

_SURVEY, _DATABASE, _LABELS, _PAGE = "survey", "demo.sqlite", "labels.fits", "demo.md"
#: Visits to a star at most.
_VISITS = 3
#: The demonstration keeps to itself, whatever stack, database and weights are configured.
_ITS_OWN = (*ALSO, "broker_url", "arrays_url", "model", "corrections")
#: A star is shown that has lines, and is bright enough for its abundances to mean something.
_SHOWN_SNR, _SHOWN_LOGG = 80.0, 3.0


def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder for all files; one from an earlier call is used again."
        ),
    ] = Path("astronn-demo"),
    stars: Annotated[int, typer.Option("--stars", min=10, max=100_000, help="How many.")] = 200,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of the simulated survey.")
    ] = 0,
) -> None:
    """Show the stream at work: simulate a survey, process it, compare with the truth.

    Writes apStar files of simulated stars, runs them through the whole stream with the
    demonstration weights, and compares the labels with those that the spectra were made from: a
    table and pictures in DIR. The same command again uses what is there.
    """
    with telling_interruption():
        settings = _its_own_settings(folder)
        tell_weights(weights_sha256(settings.weights_file))
        truth = _make_survey(folder, stars, seed, settings.loaders + 1)
        plan = Plan.make([folder / _SURVEY], settings, wanted="both", tag="")
        outcome = carry_out(plan, serial=False, headers=reading, bar=progress_bar)
        table = results_of(outcome, plan)
        write_table(table, folder / _LABELS)
        print_outcome(outcome, plan.tag)
        comparison = Comparison.of(table, truth)
        _show(folder, comparison)
    print_labels("Against the truth: coadds of S/N above 100", _rows(comparison))
    say(f"Pictures and tables: {folder / _PAGE}")


def _its_own_settings(folder: Path) -> Settings:
    """The settings of the environment, with a stack and a database for the demonstration alone."""
    return get_settings().apart(
        *_ITS_OWN,
        database_url=f"sqlite:///{folder / _DATABASE}",
        data_root=folder / _SURVEY,
        model=DEMONSTRATION.weights,
    )


def _make_survey(folder: Path, stars: int, seed: int, processes: int) -> Truth:
    from producer.simulation.survey import Survey, write_survey
    from producer.simulation.truth import Truth, refuse_others

    survey, below = Survey(stars, _VISITS, seed, "mixed"), folder / _SURVEY
    if folder.is_dir() and not below.exists():
        refuse_others(folder, "demonstration")  # such as a labels.fits of the user's
    truth = Truth.of(below, survey.settings())
    with progress_bar("Simulating stars", stars) as advance:
        advance(len(truth))
        write_survey(survey, below, truth, processes, lambda _: advance(1))
    return truth


@dataclass(frozen=True)
class Comparison:
    """Results with labels, and the truth of each, row by row.

    ``known`` is ``(n, 22)`` in the order of :data:`worker.labels.LABELS`.
    """

    table: Table
    known: Floats

    @classmethod
    def of(cls, table: Table, truth: Truth) -> Comparison:
        """Find the truth of each row by its file; rows of other files are left out.

        Raises
        ------
        FatalError
            No coadd has labels.
        """
        known = truth.table()
        labels = np.column_stack([known[name] for name in LABEL_NAMES])
        of_file = dict(zip(known["path"].tolist(), labels, strict=True))
        table = table[~np.asarray(table["flag_no_result"])]
        table = table[np.isin(table["path"], list(of_file))]
        if COADD not in table["kind"]:
            raise FatalError(
                "No coadd of the simulated survey got labels: there is nothing to show."
            )
        return cls(table, np.array([of_file[path] for path in table["path"]]))

    def column(self, prefix: str) -> Floats:
        """All labels of the results, or with ``e_`` their uncertainties, ``(n, 22)``."""
        columns = [self.table[prefix + name] for name in LABEL_NAMES]
        return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])

    @property
    def coadds(self) -> NDArray[np.bool_]:
        """Which rows are coadds."""
        return np.asarray(self.table["kind"] == COADD)

    def evaluated(self) -> Evaluated:
        """In the form that the pictures of a training's report take."""
        from worker.comparison.evaluation import Evaluated

        snr = known_snr(np.asarray(self.table["snr"], dtype=np.float64))
        nothing = np.zeros(len(snr), dtype=np.bool_)
        labels = self.column("")
        unknown = names_of(~known_labels(labels))
        return Evaluated(labels, self.column("e_"), self.known, snr, nothing, unknown)


def _show(folder: Path, comparison: Comparison) -> None:
    """Draw the pictures, and write the page that shows them.

    Raises
    ------
    FatalError
        They cannot be written.
    """
    try:
        _draw(folder, comparison)
        (folder / _PAGE).write_text("\n".join(_page(comparison)) + "\n")
    except OSError as error:
        reason = error.strerror or error
        raise FatalError(f"The pictures in {folder} cannot be written: {reason}.") from error


def _draw(folder: Path, comparison: Comparison) -> None:
    from producer.simulation.truth_figures import draw_planes, draw_star
    from worker.reports.comparison_figures import draw_predicted, draw_residuals

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


def _shown_star(comparison: Comparison) -> Sequence[int]:
    """The rows of one star, its coadd first: a giant with several visits of good S/N, if any."""
    table, coadds = comparison.table, comparison.coadds
    giants = comparison.known[:, LABEL_NAMES.index("logg")] < _SHOWN_LOGG
    good = coadds & giants & (np.asarray(table["snr"]) > _SHOWN_SNR)
    good &= np.asarray(table["n_visits"]) == _VISITS
    first = int(np.flatnonzero(good if good.any() else coadds)[0])
    rows = np.flatnonzero(np.asarray(table["path"]) == table["path"][first])
    return [first, *(int(row) for row in rows if row != first)]


def _normalised(folder: Path, path: str) -> Floats:
    """A coadd as the network reads it."""
    from worker.pictures.spectrum import read_seen

    return read_seen(folder.resolve(), path, COADD, "and").flux


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line for each label: what was found against the truth, in coadds of good S/N."""
    from worker.comparison.statistics import group_numbers
    from worker.reports.comparison_tables import short_rows

    good = comparison.coadds & (np.asarray(comparison.table["snr"]) > 100)
    numbers = group_numbers(comparison.evaluated(), comparison.column("e_"), {"good": good})
    return short_rows({name: groups["good"] for name, groups in numbers.items()})


def _page(comparison: Comparison) -> list[str]:
    from worker.reports.comparison_tables import SHORT_HEADINGS

    return [
        "# A simulated survey through the stream",
        "",
        "No telescope saw these stars: `astronn-stream simulate` simulated them, and the",
        "demonstration weights, which were trained on such stars, found their labels again. What",
        "these weights say of real stars means nothing.",
        "",
        "## Against the truth: coadds of S/N above 100",
        "",
        "Bias is the median of what was found less the truth, scatter 1.4826 times the median",
        "absolute deviation. Honest uncertainties hold the truth within 1 sigma in 68 % of stars.",
        "",
        f"| {' | '.join(SHORT_HEADINGS)} |",
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

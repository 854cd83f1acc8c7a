"""The report of labels against known ones: a page, its numbers, and pictures, in one folder.

It is the report of a training, of an evaluation and of a comparison of tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.comparison.evaluation import Evaluated
from worker.comparison.outliers import Outlier
from worker.comparison.statistics import Numbers
from worker.errors import FatalError
from worker.labels import told_not_learnt
from worker.reports.comparison_figures import (
    draw_calibration,
    draw_diagram,
    draw_losses,
    draw_predicted,
    draw_residuals,
)
from worker.reports.comparison_tables import (
    by_part,
    by_snr,
    factors,
    named,
    overall,
    within_by_snr,
)

_PAGE = "report.md"
_NUMBERS = "figures.json"


@dataclass(frozen=True)
class Account:
    """Settings, data and outcome of a training or a comparison, apart from its labels.

    Attributes
    ----------
    command
        The command line, without folders.
    settings, data
        Names and values as the report lists them.
    losses, best_epoch
        See :class:`worker.training.trainer.Trained`; none and 0 where nothing was trained.
    notes
        Sentences on how the numbers came about.
    title
        What the page is called.
    lacking
        What is true of the labels that are left out.
    """

    command: str
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    losses: list[dict[str, float]]
    best_epoch: int
    notes: tuple[str, ...]
    title: str = "Evaluation report"
    lacking: str = "not learnt"


def write_report(
    folder: Path,
    account: Account,
    evaluated: Evaluated,
    numbers: dict[str, Numbers],
    outliers: Mapping[str, Sequence[Outlier]] | None = None,
) -> None:
    """Write ``report.md``, ``figures.json`` and the pictures.

    Parameters
    ----------
    numbers
        Of :func:`worker.comparison.statistics.label_numbers` or ``numbers_with``.
    outliers
        The spectra that are named, by the unit in which they are far off.

    Raises
    ------
    FatalError
        The folder cannot be written.
    """
    outliers = outliers or {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw(folder, account, evaluated, numbers)
        content = _content(account, evaluated, numbers, outliers)
        (folder / _NUMBERS).write_text(json.dumps(content, indent=1) + "\n")
        page = "\n".join(_page(account, evaluated, numbers, outliers)) + "\n"
        (folder / _PAGE).write_text(page, encoding="utf-8")  # it has a sigma, whatever the locale
    except OSError as error:
        raise FatalError(f"The report {folder} cannot be written: {error.strerror}.") from error


def _draw(
    folder: Path, account: Account, evaluated: Evaluated, numbers: dict[str, Numbers]
) -> None:
    draw_predicted(folder / "predicted.png", evaluated)
    draw_residuals(folder / "residuals.png", evaluated)
    draw_diagram(folder / "diagram.png", evaluated)
    draw_calibration(folder / "calibration.png", numbers)
    if account.losses:
        draw_losses(folder / "losses.png", account.losses, account.best_epoch)


def _content(
    account: Account,
    evaluated: Evaluated,
    numbers: dict[str, Numbers],
    outliers: Mapping[str, Sequence[Outlier]],
) -> dict[str, Any]:
    """What the JSON holds: the numbers of the page, in full."""
    return {
        "command": account.command,
        "settings": dict(account.settings),
        "data": dict(account.data),
        "losses": account.losses,
        "best_epoch": account.best_epoch,
        "labels": numbers,
        "not_learnt": evaluated.not_learnt,
        "outliers": {unit: [asdict(each) for each in rows] for unit, rows in outliers.items()},
    }


def _page(
    account: Account,
    evaluated: Evaluated,
    numbers: dict[str, Numbers],
    outliers: Mapping[str, Sequence[Outlier]],
) -> Iterator[str]:
    yield from (f"# {account.title}", "", "```", account.command, "```", "", "## Data", "")
    yield from (f"- {name}: {value}" for name, value in account.data.items())
    yield from ("", "## Settings", "")
    yield from (f"- {name}: {value}" for name, value in account.settings.items())
    if account.losses:
        yield from (
            *("", "## Training", ""),
            f"{len(account.losses)} epochs, the best of them epoch {account.best_epoch} with a "
            f"validation loss of {account.losses[account.best_epoch - 1]['validation']:.4f}.",
            *("", "![Losses and learning rate of each epoch](losses.png)"),
        )
    yield from (
        *("", "## Labels against those that are known", ""),
        f"{len(evaluated.snr)} spectra. {' '.join(account.notes)}",
        "",
    )
    if evaluated.not_learnt:
        yield from (told_not_learnt(evaluated.not_learnt, account.lacking), "")
    yield from overall(numbers)
    yield from ("", "![Predicted against known labels](predicted.png)", "")
    yield from _divided(numbers)
    yield from _uncertainties(numbers)
    yield from _outliers(outliers)


def _divided(numbers: dict[str, Numbers]) -> Iterator[str]:
    """The labels by S/N and by part of the diagram."""
    yield from (
        *("## By S/N", ""),
        "Scatter (and median calibrated uncertainty) by S/N per pixel.",
        "",
    )
    yield from by_snr(numbers)
    yield from ("", "![Residuals against S/N](residuals.png)", "")
    yield from (
        *("## By part of the diagram", ""),
        "Bias ± scatter (and the part within one calibrated uncertainty); the known labels decide "
        "where a spectrum belongs.",
    )
    yield from by_part(numbers)
    yield from ("", "![Residuals in the Kiel diagram](diagram.png)", "")


def _uncertainties(numbers: dict[str, Numbers]) -> Iterator[str]:
    yield from ("## Uncertainties", "")
    yield from ("![Residuals within 1, 2 and 3 of their uncertainties](calibration.png)", "")
    yield "Part of the residuals within one calibrated uncertainty by S/N; 0.683 is expected."
    yield ""
    yield from within_by_snr(numbers)
    if any("scale" in of_label for of_label in numbers.values()):
        yield from ("", "Factor of the noise model by S/N per pixel, linear between these.", "")
        yield from factors(numbers)


def _outliers(outliers: Mapping[str, Sequence[Outlier]]) -> Iterator[str]:
    if not any(outliers.values()):
        return
    yield from ("", "## Outliers", "")
    yield "Stars by the label that is furthest from the known one; the JSON has their other labels."
    for unit, rows in outliers.items():
        yield from ("", f"In units of the {unit}:", "")
        yield from named(rows)

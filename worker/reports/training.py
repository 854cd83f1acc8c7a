"""The report of a training or an evaluation: a page, its numbers, and pictures, in one folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.comparison.evaluation import Evaluated
from worker.comparison.statistics import Numbers, label_numbers
from worker.errors import FatalError
from worker.labels import LABELS, Label, told_not_learnt
from worker.reports.training_figures import (
    draw_calibration,
    draw_losses,
    draw_predicted,
    draw_residuals,
)
from worker.results.noise_model import NoiseModel
from worker.results.snr import SNR_PLACES

_PAGE = "report.md"
_NUMBERS = "figures.json"


@dataclass(frozen=True)
class Account:
    """Settings, data and outcome of a training or an evaluation, apart from its labels.

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
    """

    command: str
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    losses: list[dict[str, float]]
    best_epoch: int
    notes: tuple[str, ...]


def write_report(
    folder: Path, account: Account, evaluated: Evaluated, noise_model: NoiseModel
) -> Numbers:
    """Write ``report.md``, ``figures.json`` and the pictures; gives the numbers of each label.

    Raises
    ------
    FatalError
        The folder cannot be written.
    """
    numbers = label_numbers(evaluated, noise_model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_predicted(folder / "predicted.png", evaluated)
        draw_residuals(folder / "residuals.png", evaluated)
        draw_calibration(folder / "calibration.png", numbers)
        if account.losses:
            draw_losses(folder / "losses.png", account.losses, account.best_epoch)
        content = {
            "command": account.command,
            "settings": dict(account.settings),
            "data": dict(account.data),
            "losses": account.losses,
            "best_epoch": account.best_epoch,
            "labels": numbers,
            "not_learnt": evaluated.not_learnt,
        }
        (folder / _NUMBERS).write_text(json.dumps(content, indent=1) + "\n")
        page = "\n".join(_page(account, numbers, evaluated)) + "\n"
        (folder / _PAGE).write_text(page, encoding="utf-8")  # it has a sigma, whatever the locale
    except OSError as error:
        raise FatalError(f"The report {folder} cannot be written: {error.strerror}.") from error
    return numbers


def _page(account: Account, numbers: dict[str, Numbers], evaluated: Evaluated) -> Iterator[str]:
    of_what = "Training" if account.losses else "Evaluation"
    yield from (f"# {of_what} report", "", "```", account.command, "```", "", "## Data", "")
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
        yield from (told_not_learnt(evaluated.not_learnt), "")
    yield from _overall(numbers)
    yield from ("", "![Predicted against known labels](predicted.png)", "")
    yield from (
        "## By S/N",
        "",
        "Scatter (and median calibrated uncertainty) by S/N per pixel.",
        "",
    )
    yield from _by_snr(numbers)
    yield from ("", "![Residuals against S/N](residuals.png)", "")
    yield from ("## Uncertainties", "")
    yield from ("![Residuals within 1, 2 and 3 of their uncertainties](calibration.png)", "")
    yield "Part of the residuals within one calibrated uncertainty by S/N; 0.683 is expected."
    yield ""
    yield from _within_by_snr(numbers)
    yield from ("", "Factor of the noise model by S/N per pixel, linear between these.", "")
    yield from _factors(numbers)


def _overall(numbers: dict[str, Numbers]) -> Iterator[str]:
    yield (
        "| label | unit | n | bias | scatter | rms | median e | within 1, 2, 3σ before the "
        "noise model | after | scale |"
    )
    yield _row(*["---"] * 10)
    for label in _learnt(numbers):
        of_label = numbers[label.name]
        every = of_label["by_snr"]["all"]
        digits = _digits(label.unit)
        yield _row(
            label.name,
            label.unit,
            every["n"],
            *(_number(every[key], digits) for key in ("bias", "scatter", "rms", "median_e")),
            _parts(every["within_before"]),
            _parts(every["within_after"]),
            f"{of_label['scale']:.3f}",
        )


def _by_snr(numbers: dict[str, Numbers]) -> Iterator[str]:
    yield from _heading(numbers, all_spectra=True)
    for label in _learnt(numbers):
        digits = _digits(label.unit)
        yield _row(
            f"{label.name} ({label.unit})",
            *(
                f"{_number(each['scatter'], digits)} ({_number(each['median_e'], digits)})"
                for each in _bins(numbers[label.name])
            ),
        )


def _within_by_snr(numbers: dict[str, Numbers]) -> Iterator[str]:
    yield from _heading(numbers, all_spectra=False)
    for label in _learnt(numbers):
        bins = _bins(numbers[label.name])
        yield _row(label.name, *(_number((b["within_after"] or [None])[0], 2) for b in bins))


def _factors(numbers: dict[str, Numbers]) -> Iterator[str]:
    yield _row("label", *(f"S/N {place:g}" for place in SNR_PLACES))
    yield _row(*["---"] * (len(SNR_PLACES) + 1))
    for label in _learnt(numbers):
        fitted = numbers[label.name]["factors"] or {"snr": [], "factor": []}
        at = dict(zip(fitted["snr"], fitted["factor"], strict=True))
        yield _row(label.name, *(_number(at.get(place), 2) for place in SNR_PLACES))


def _heading(numbers: dict[str, Numbers], *, all_spectra: bool) -> Iterator[str]:
    first = next(iter(numbers.values()))["by_snr"]
    names = [name for name in first if name != "all"]
    counts = [first[name]["n" if all_spectra else "n_tested"] for name in names]
    yield _row("label", *(f"S/N {name} (n = {n})" for name, n in zip(names, counts, strict=True)))
    yield _row(*["---"] * (len(names) + 1))


def _learnt(numbers: dict[str, Numbers]) -> list[Label]:
    return [label for label in LABELS if label.name in numbers]


def _bins(of_label: Numbers) -> list[Numbers]:
    return [each for name, each in of_label["by_snr"].items() if name != "all"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _digits(unit: str) -> int:
    return 1 if unit == "K" else 3


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _parts(values: list[float] | None) -> str:
    return "" if values is None else ", ".join(f"{value:.2f}" for value in values)

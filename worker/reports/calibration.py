"""The report of a calibration: a page and its pictures, in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from worker.calibration.calibration import LabelCalibration, not_learnt
from worker.calibration.files import NOTES
from worker.calibration.widths import LabelPulls
from worker.errors import FatalError
from worker.labels import LABELS, Label, told_not_learnt
from worker.reports.calibration_figures import draw_pulls, draw_widths
from worker.results.snr import snr_bins

PAGE = "calibration.md"


def write_report(
    folder: Path,
    about: Sequence[str],
    labels: Sequence[LabelCalibration],
    pulls: Sequence[LabelPulls],
) -> None:
    """Write ``calibration.md`` and its pictures.

    Parameters
    ----------
    about
        Lines on what was calibrated and how.

    Raises
    ------
    FatalError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shown = {
            label: (of_label, each)
            for label, of_label, each in zip(LABELS, labels, pulls, strict=True)
            if of_label.learnt
        }
        drawn = {label: each for label, (_, each) in shown.items()}
        draw_pulls(folder / "z.png", drawn)
        draw_widths(folder / "widths.png", drawn)
        if unknown := not_learnt(labels):
            about = [*about, told_not_learnt(unknown)]
        page = "\n".join(_page(about, shown)) + "\n"
        (folder / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise FatalError(f"The report {folder} cannot be written: {error.strerror}.") from error


def _page(
    about: Sequence[str], shown: Mapping[Label, tuple[LabelCalibration, LabelPulls]]
) -> Iterator[str]:
    yield from ("# Calibration from repeat visits", "")
    yield from (f"- {line}" for line in [*about, *NOTES])
    yield from ("", "## Scale and offset", "")
    yield "| label | unit | pairs | scale | offset | width before | after | |"
    yield _row(*["---"] * 8)
    for label, (of_label, each) in shown.items():
        _, before, after = each.widths().get("all", (0, None, None))
        yield _row(
            label.name,
            label.unit,
            of_label.pairs,
            _with_error(of_label.scale, of_label.scale_error, 3),
            _with_error(of_label.offset, of_label.offset_error, 1 if label.unit == "K" else 4),
            _number(before, 2),
            _number(after, 2),
            of_label.note,
        )
    yield from ("", "![z of each label, before and after](z.png)", "")
    yield from ("## By S/N", "", "Widths of z after the noise model (before it).", "")
    yield from _by_snr({label: each for label, (_, each) in shown.items()})
    yield from ("", "![Widths of z against S/N](widths.png)", "")
    yield from _factors({label: of_label for label, (of_label, _) in shown.items()})


def _by_snr(pulls: Mapping[Label, LabelPulls]) -> Iterator[str]:
    names = list(snr_bins(next(iter(pulls.values())).snr))
    yield _row("label", *(f"S/N {name}" for name in names))
    yield _row(*["---"] * (len(names) + 1))
    for label, each in pulls.items():
        widths = each.widths()
        cells = [widths.get(name, (0, None, None)) for name in names]
        yield _row(
            label.name,
            *(
                "" if after is None else f"{after:.2f} ({_number(before, 2)})"
                for _, before, after in cells
            ),
        )


def _factors(labels: Mapping[Label, LabelCalibration]) -> Iterator[str]:
    places = sorted({float(x) for each in labels.values() if each.by_snr for x in each.by_snr.snr})
    if not places:
        return
    yield from ("Factors on e by S/N, linear between these places:", "")
    yield _row("label", *(f"{place:g}" for place in places))
    yield _row(*["---"] * (len(places) + 1))
    for label, each in labels.items():
        if each.by_snr is None:
            continue
        errors = each.by_snr.error
        of_place = {
            float(snr): _with_error(factor, None if errors is None else errors[number], 2)
            for number, (snr, factor) in enumerate(
                zip(each.by_snr.snr, each.by_snr.factor, strict=True)
            )
        }
        yield _row(label.name, *(of_place.get(place, "") for place in places))


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _with_error(value: float, error: float | None, digits: int) -> str:
    known = "" if error is None else f" ± {error:.{digits}f}"
    return f"{value:.{digits}f}{known}"

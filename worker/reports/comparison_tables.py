"""The tables of a comparison with known labels, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from worker.comparison.outliers import Outlier
from worker.comparison.statistics import Numbers
from worker.flags import DESCRIPTIONS
from worker.labels import LABELS, Label
from worker.results.snr import SNR_PLACES
from worker.text import printable

#: Of the short table, which goes to the screen, too.
SHORT_HEADINGS = ("label", "bias", "scatter", "typical uncertainty", "within 1 sigma")


def short_rows(of_labels: Mapping[str, Numbers]) -> list[tuple[str, ...]]:
    """The short table: a line for each label that some spectrum of a group has.

    Parameters
    ----------
    of_labels
        By label the numbers of one group.
    """
    return [
        (
            f"{label.name} ({label.unit})",
            *(_number(of_labels[label.name][key], digits) for key in ("bias", "scatter")),
            _number(of_labels[label.name]["median_e"], digits),
            f"{100 * parts[0]:.0f} %" if parts else "",
        )
        for label in _shown(of_labels)
        for digits in [0 if label.unit == "K" else 3]
        for parts in [of_labels[label.name]["within_after"]]
        if of_labels[label.name]["n"]
    ]


def overall(numbers: dict[str, Numbers]) -> Iterator[str]:
    """What holds for all spectra, a row for each label."""
    yield (
        "| label | unit | n | bias | scatter | rms | median e | within 1, 2, 3σ before the "
        "noise model | after | median pull | width of pulls | scale |"
    )
    yield _row(*["---"] * 12)
    for label in _shown(numbers):
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
            *(_number(every[key], 2) for key in ("median_pull", "pull_width")),
            _number(of_label.get("scale"), 3),
        )


def by_snr(numbers: dict[str, Numbers]) -> Iterator[str]:
    """Scatter and uncertainty in each bin of S/N."""
    yield from _heading(numbers, all_spectra=True)
    for label in _shown(numbers):
        digits = _digits(label.unit)
        yield _row(
            f"{label.name} ({label.unit})",
            *(
                f"{_number(each['scatter'], digits)} ({_number(each['median_e'], digits)})"
                if each["n"]
                else ""
                for each in _bins(numbers[label.name])
            ),
        )


def within_by_snr(numbers: dict[str, Numbers]) -> Iterator[str]:
    """The part within one uncertainty in each bin of S/N."""
    yield from _heading(numbers, all_spectra=False)
    for label in _shown(numbers):
        bins = _bins(numbers[label.name])
        yield _row(label.name, *(_first(each["within_after"]) for each in bins))


def factors(numbers: dict[str, Numbers]) -> Iterator[str]:
    """The noise model's factors by S/N."""
    yield _row("label", *(f"S/N {place:g}" for place in SNR_PLACES))
    yield _row(*["---"] * (len(SNR_PLACES) + 1))
    for label in _shown(numbers):
        fitted = numbers[label.name]["factors"] or {"snr": [], "factor": []}
        at = dict(zip(fitted["snr"], fitted["factor"], strict=True))
        yield _row(label.name, *(_number(at.get(place), 2) for place in SNR_PLACES))


def by_part(numbers: dict[str, Numbers]) -> Iterator[str]:
    """A table for each way in which the diagram is divided, of the parts that have spectra."""
    for part, groups in next(iter(numbers.values()))["by_part"].items():
        counts = {
            name: max(numbers[label]["by_part"][part][name]["n"] for label in numbers)
            for name in groups
        }
        there = [name for name, count in counts.items() if count]
        if not there:
            continue
        yield ""
        yield _row(part, *(f"{name} (n = {counts[name]})" for name in there))
        yield _row(*["---"] * (len(there) + 1))
        for label in _shown(numbers):
            of_label = numbers[label.name]["by_part"][part]
            cells = (_off(of_label[name], _digits(label.unit)) for name in there)
            yield _row(f"{label.name} ({label.unit})", *cells)


def named(outliers: Sequence[Outlier]) -> Iterator[str]:
    """Spectra by name, with the label that is furthest off."""
    basic = ("teff", "logg", "fe_h")
    yield _row(
        *("star", "file", "member", "S/N", "label", "found", "known", "off", "flags"),
        "Teff, log g, [Fe/H] (known)",
    )
    yield _row(*["---"] * 10)
    for each in outliers:
        worst = each.labels[each.label]
        digits = _digits(_UNITS[each.label])
        others = (
            f"{_number(found.found, places)} ({_number(found.known, places)})"
            for name in basic
            if (found := each.labels.get(name)) is not None
            for places in [0 if _UNITS[name] == "K" else 2]
        )
        yield _row(
            *(_code(text) for text in (each.star, each.path, each.member)),
            _number(each.snr, 0),
            each.label,
            f"{_number(worst.found, digits)} ± {_number(worst.e, digits)}",
            _number(worst.known, digits),
            f"{each.off:+.1f}",
            ", ".join(flag.label for flag in DESCRIPTIONS if each.flags & flag.value),
            ", ".join(others),
        )


_UNITS = {label.name: label.unit for label in LABELS}


def _heading(numbers: dict[str, Numbers], *, all_spectra: bool) -> Iterator[str]:
    of_labels = [of_label["by_snr"] for of_label in numbers.values()]
    names = [name for name in of_labels[0] if name != "all"]
    key = "n" if all_spectra else "n_tested"
    counts = {name: max(each[name][key] for each in of_labels) for name in names}
    yield _row("label", *(f"S/N {name} (n = {n})" for name, n in counts.items()))
    yield _row(*["---"] * (len(names) + 1))


def _shown(numbers: Mapping[str, Numbers]) -> list[Label]:
    return [label for label in LABELS if label.name in numbers]


def _bins(of_label: Numbers) -> list[Numbers]:
    return [each for name, each in of_label["by_snr"].items() if name != "all"]


def _off(numbers: Numbers, digits: int) -> str:
    if not numbers["n"]:
        return ""
    off = f"{_number(numbers['bias'], digits)} ± {_number(numbers['scatter'], digits)}"
    part = _first(numbers["within_after"])
    return f"{off} ({part})" if part else off


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _code(text: str) -> str:
    """A name that others gave, so that nothing in it is read as Markdown."""
    plain = printable(text).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`" if plain else ""


def _digits(unit: str) -> int:
    return 1 if unit == "K" else 3


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _first(parts: list[float] | None) -> str:
    return "" if parts is None else f"{parts[0]:.2f}"


def _parts(values: list[float] | None) -> str:
    return "" if values is None else ", ".join(f"{value:.2f}" for value in values)

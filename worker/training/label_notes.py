"""What of a table of labels was turned into something else or ignored, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from worker.array_types import Floats
from worker.labels import LABEL_NAMES
from worker.training.aspcap_names import IRON, RATIO_NAMES, looks_like_label
from worker.training.label_columns import ARRAY, LabelColumn

_MOST_NAMED = 10


def notes_of_labels(
    read: Mapping[str, LabelColumn], labels: Floats, spelling: Iterable[str], *, order_known: bool
) -> list[str]:
    """Sentences about the labels that were read from a table.

    Parameters
    ----------
    read
        By the names of the labels.
    labels
        ``(n, 22)``, what is left of them without the rows that are not used.
    spelling
        The names of all columns as the file has them.
    order_known
        Whether the elements of the array of abundances, where there is one, are known.
    """
    spelt = {name.lower(): name for name in spelling}
    sentences = [
        _turned(read, spelt),
        _flagged(read, spelt),
        "" if order_known else f"{spelt[ARRAY]} is not used: nothing tells its elements.",
        _lacking(labels),
        _strange(spelt),
    ]
    return [sentence for sentence in sentences if sentence]


def _turned(read: Mapping[str, LabelColumn], spelt: Mapping[str, str]) -> str:
    iron = read[IRON.name].values
    ratios = [name for low, name in spelt.items() if low in RATIO_NAMES]
    if ratios and not np.isfinite(iron).any():
        return f"{_and_more(ratios)} are not used: [X/Fe] without [Fe/H] gives no [X/H]."
    used = [spelt[each.ratio] for each in read.values() if each.ratio]
    verb = "was" if len(used) == 1 else "were"
    return f"{_and_more(used)} {verb} turned into [X/H] with [Fe/H]." if used else ""


def _flagged(read: Mapping[str, LabelColumn], spelt: Mapping[str, str]) -> str:
    count = sum(each.n_flagged for each in read.values())
    flags = {spelt[name]: None for each in read.values() if each.n_flagged for name in each.flags}
    return (
        f"{count} values with bad bits in {_and_more(list(flags))} are not used." if count else ""
    )


def _lacking(labels: Floats) -> str:
    lacking = [
        name for name, each in zip(LABEL_NAMES, labels.T, strict=True) if np.isnan(each).all()
    ]
    return f"No values for {', '.join(lacking)}." if lacking else ""


def _strange(spelt: Mapping[str, str]) -> str:
    strange = [name for low, name in spelt.items() if looks_like_label(low)]
    more = f" and {len(strange) - _MOST_NAMED} more" if len(strange) > _MOST_NAMED else ""
    named = ", ".join(strange[:_MOST_NAMED])
    return f"Columns not understood as any of the 22 labels: {named}{more}." if strange else ""


def _and_more(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

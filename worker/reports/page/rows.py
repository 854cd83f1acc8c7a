"""Which results a page lists, and what stands in its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.flags import DESCRIPTIONS
from worker.identity import COADD
from worker.labels import LABELS, Label
from worker.reports.page.html import Heading, Row

if TYPE_CHECKING:
    from astropy.table import Table

#: Rows with labels that a page lists at most; of these as many as the second number are flagged
#: ones, as long as there are others. Rows without labels are listed up to the third.
MOST_ROWS, MOST_FLAGGED, MOST_FAILED = 2000, 1000, 1000

_IDENTITY = (
    Heading("key", "number"),
    Heading("star"),
    Heading("kind"),
    Heading("S/N", "number"),
)
FAILED_HEADINGS = (
    *_IDENTITY,
    Heading("reason", "text"),
    Heading("file", "text"),
    Heading("visit"),
)
PROVENANCE_HEADINGS = (
    Heading("rows", "number"),
    Heading("weights"),
    Heading("SHA-256 of the weights"),
    Heading("SHA-256 of the noise model"),
    Heading("passes", "number"),
    Heading("seed", "number"),
    Heading("tag"),
    Heading("software"),
)
_PROVENANCE = (
    *("weights_name", "weights_sha256", "corrections_sha256"),
    *("mc_samples", "seed", "tag", "software_version"),
)


def listed(table: Table) -> NDArray[np.intp]:
    """Positions of the rows with labels that are listed, in order of the table.

    Flagged rows come first, up to a thousand and up to all where the others leave room.
    """
    labelled = ~np.asarray(table["flag_no_result"])
    warned = np.asarray(table["flag_warn"])
    flagged, others = np.flatnonzero(labelled & warned), np.flatnonzero(labelled & ~warned)
    of_flagged = max(MOST_FLAGGED, MOST_ROWS - len(others))
    chosen = np.concatenate([flagged[:of_flagged], others])[:MOST_ROWS]
    return np.sort(chosen)


def known_labels(table: Table) -> list[Label]:
    """The labels that any row has; all of them where no row has any."""
    known = [label for label in LABELS if np.isfinite(np.asarray(table[label.name])).any()]
    return known or list(LABELS)


def result_headings(labels: Sequence[Label]) -> list[Heading]:
    """The heads of a table of results that shows these labels."""
    shown = [Heading(f"{label.name} ({label.unit})", "number") for label in labels]
    return [*_IDENTITY, *shown, Heading("flags", "flags"), Heading("visit")]


def result_rows(
    table: Table,
    positions: NDArray[np.intp],
    labels: Sequence[Label],
    good: NDArray[np.bool_],
) -> Iterator[Row]:
    """These labels with uncertainties and flags, a row for each position.

    ``good`` says of each row of the table whether the page begins with it.
    """
    for row, is_good in zip(table[positions], good[positions], strict=True):
        flags = [flag.label for flag in DESCRIPTIONS if row["result_flags"] & flag.value]
        measured = [
            _measured(row[label.name], row[f"e_{label.name}"], 0 if label.unit == "K" else 3)
            for label in labels
        ]
        cells = [*_identity(row), *measured, ", ".join(flags), _visit(row)]
        yield Row(cells, flagged=bool(flags), good=bool(is_good))


def failed_rows(table: Table) -> Iterator[Row]:
    """The first rows without labels, each with its reason."""
    for row in table[np.flatnonzero(np.asarray(table["flag_no_result"]))[:MOST_FAILED]]:
        yield Row([*_identity(row), row["no_result_reason"], row["path"], _visit(row)])


def provenance_rows(table: Table) -> Iterator[Row]:
    """What made the rows, and how many; the most common first."""
    columns = [np.ma.filled(np.ma.asarray(table[name]).astype(str), "") for name in _PROVENANCE]
    made = Counter(zip(*columns, strict=True))
    for values, count in made.most_common():
        yield Row([count, *values])


def _identity(row: Any) -> list[object]:
    snr = float(row["snr"])
    return [row["spectrum_pk"], row["obj"], row["kind"], f"{snr:.1f}" if snr > 0 else ""]


def _visit(row: Any) -> str:
    return "" if row["kind"] == COADD else str(row["member"])


def _measured(value: float, error: float, digits: int) -> str:
    if not np.isfinite(value):
        return ""
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")

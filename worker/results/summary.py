"""The outcome of a run in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.flags import DESCRIPTIONS, ResultFlag

if TYPE_CHECKING:
    from astropy.table import Table


@dataclass(frozen=True)
class Summary:
    """Counts of rows of results.

    Attributes
    ----------
    spectra, coadds, visits
        Rows, and the rows of each kind.
    labelled
        Rows with labels.
    reasons
        How often each reason for having none occurs.
    flagged
        How many labelled rows have each flag that could be set.
    warn, bad
        How many labelled rows are flagged at all, and how many are bad.
    """

    spectra: int
    coadds: int
    visits: int
    labelled: int
    reasons: Counter[str]
    flagged: dict[str, int]
    warn: int
    bad: int


#: The columns that are counted.
COLUMNS = (
    *("kind", "result_flags", "flag_warn", "flag_bad", "flag_no_result", "no_result_reason"),
    "p_training",
)


def summarise(rows: Mapping[str, NDArray[Any]] | Table) -> Summary:
    """Count rows of results, of which the ``COLUMNS`` are given by name."""
    kind, bits, warn, bad, lost, reason, p_training = (np.asarray(rows[name]) for name in COLUMNS)
    # Where no weights know their training, that none is flagged says nothing.
    without = [ResultFlag.NO_RESULT]
    without += [] if np.isfinite(p_training).any() else [ResultFlag.UNLIKE_TRAINING]
    return Summary(
        spectra=len(kind),
        coadds=int((kind == "coadd").sum()),
        visits=int((kind == "visit").sum()),
        labelled=int((~lost).sum()),
        reasons=Counter(reason[lost].tolist()),
        flagged={
            flag.column: int((~lost & ((bits & flag.value) != 0)).sum())
            for flag in DESCRIPTIONS
            if flag not in without
        },
        warn=int((~lost & warn).sum()),
        bad=int((~lost & bad).sum()),
    )

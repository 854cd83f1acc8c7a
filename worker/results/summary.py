"""The outcome of a run in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from astropy.table import Table

from worker.flags import DESCRIPTIONS, ResultFlag


@dataclass(frozen=True)
class Summary:
    """Counts of the rows of a table.

    Attributes
    ----------
    spectra, coadds, visits
        Rows, and the rows of each kind.
    labelled
        Rows with labels.
    reasons
        How often each reason for having none occurs.
    flagged
        How many labelled rows have each flag.
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


def summarise(table: Table) -> Summary:
    """Count the rows of a table as :func:`worker.results.read.read_table` gives it."""
    labelled = table[~table["flag_no_result"]]
    kinds = Counter(table["kind"])
    return Summary(
        spectra=len(table),
        coadds=kinds["coadd"],
        visits=kinds["visit"],
        labelled=len(labelled),
        reasons=Counter(table["no_result_reason"][table["flag_no_result"]]),
        flagged={
            flag.column: int(((labelled["result_flags"] & flag.value) != 0).sum())
            for flag in DESCRIPTIONS
            if flag is not ResultFlag.NO_RESULT
        },
        warn=int(labelled["flag_warn"].sum()),
        bad=int(labelled["flag_bad"].sum()),
    )

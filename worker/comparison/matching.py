"""Which known labels each result is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.comparison.evaluation import Evaluated, half_of
from worker.comparison.results import Results
from worker.errors import UsageError
from worker.file_names import name_on_disk
from worker.text import counted
from worker.training.label_table import LabelTable
from worker.which_labels import known_labels, names_of


@dataclass(frozen=True)
class Matched:
    """Results that have a partner, and what has none.

    Attributes
    ----------
    results
        The rows that are compared.
    known
        ``(n, 22)``: the known labels of each; NaN where missing.
    left_out
        What is not compared, and how much of it.
    notes
        What was turned into something else or ignored in the tables of known labels.
    """

    results: Results
    known: Floats
    left_out: dict[str, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{counted(len(self.results), 'spectrum', 'spectra')} of "
            f"{counted(len(set(self.results.names)), 'star')}"
        )

    def as_found(self) -> Evaluated:
        """Labels as the results have them; no star calibrates."""
        none = np.zeros(len(self.results), dtype=np.bool_)
        return self._evaluated(self.results.labels, none)

    def to_calibrate(self, *, all_stars: bool) -> Evaluated:
        """Labels as the network gave them; half of the stars calibrate, or all."""
        return self._evaluated(self.results.raw_labels, half_of(self.results.names) | all_stars)

    def _evaluated(self, labels: Floats, calibrating: NDArray[np.bool_]) -> Evaluated:
        return Evaluated(
            predicted=labels,
            e_predicted=self.results.raw_e_labels,
            known=self.known,
            snr=self.results.snr,
            calibrating=calibrating,
            not_learnt=names_of(~known_labels(labels - self.known)),
        )


def match(results: Results, tables: Sequence[LabelTable], data_root: Path) -> Matched:
    """Match results by file or star with the first table that has labels for it.

    Parameters
    ----------
    data_root
        The folder that the results' paths are relative to.

    Raises
    ------
    UsageError
        No result has labels, or none has a partner, or there is no label that both have.
    """
    labelled = results.only(results.labelled)
    if not len(labelled):
        raise UsageError(f"None of the {len(results)} results has labels.")
    known, partners, twice = _known(labelled, tables, data_root.resolve())
    matched = _any(known)
    if not matched.any():
        raise UsageError(_without_partner(labelled, tables))
    common = _any(known - labelled.labels)
    if not common.any():
        raise UsageError(_without_common(labelled.only(matched), known[matched]))
    return Matched(
        results=labelled.only(common),
        known=known[common],
        left_out={
            "without labels": len(results) - len(labelled),
            "not among the known labels": int((~matched).sum()),
            "with no label that is known": int((matched & ~common).sum()),
            "of the known labels, which no result is for": _n_rows(tables) - partners,
        },
        notes=(*_told_twice(twice), *(note for table in tables for note in table.notes)),
    )


def _known(results: Results, tables: Sequence[LabelTable], root: Path) -> tuple[Floats, int, int]:
    """The known labels of each result, how many rows of the tables they are, and how many results
    are in more than one table.
    """
    paths = [root / name_on_disk(path) for path in results.paths.tolist()]
    known = np.full(results.labels.shape, np.nan)
    partners, times = 0, np.zeros(len(results), dtype=np.int64)
    for table in tables:
        rows = table.rows_of(paths, results.stars.tolist(), root)
        there = (rows >= 0) & _any(table.labels)[rows]
        taken = there & (times == 0)
        times += there
        known[taken] = table.labels[rows[taken]]
        partners += len(set(rows[taken].tolist()))
    return known, partners, int((times > 1).sum())


def _told_twice(twice: int) -> list[str]:
    told = "results are in several of the tables of known labels, the first of which counts."
    return [f"{twice} {told}"] if twice else []


def _any(labels: Floats) -> NDArray[np.bool_]:
    """Which rows have any label."""
    return np.asarray(np.isfinite(labels).any(axis=1))


def _n_rows(tables: Sequence[LabelTable]) -> int:
    return sum(len(table.names) for table in tables)


def _without_partner(results: Results, tables: Sequence[LabelTable]) -> str:
    names = ", ".join(repr(table.names[0]) for table in tables if table.names)
    return (
        f"None of the {len(results)} results is in the tables of known labels: the first is of "
        f"the star {str(results.stars[0])!r} in {str(results.paths[0])!r}, the tables begin with "
        f"{names or 'no row'}."
    )


def _without_common(results: Results, known: Floats) -> str:
    found, there = (", ".join(names_of(known_labels(labels))) for labels in (results.labels, known))
    return f"No label can be compared: the results have {found}, the known labels are {there}."

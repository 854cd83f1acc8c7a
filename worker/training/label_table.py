"""The table of known labels that a network is trained on, and which spectrum each row is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import UsageError
from worker.labels import LABELS, Label
from worker.tables.columns_of_file import numbers, read_columns

_STAR_COLUMNS = ("obj", "apogee_id", "objid")
_PATH_COLUMN = "path"


@dataclass(frozen=True)
class LabelTable:
    """Known labels of spectra or stars.

    Attributes
    ----------
    labels, e_labels
        ``(n, 22)`` in the labels' units. A missing label is NaN, a missing error 0.
    names
        For each row the path of its file or the name of its star.
    by_path
        Whether ``names`` are paths.
    folder
        Where the table lies.
    """

    labels: Floats
    e_labels: Floats
    names: tuple[str, ...]
    by_path: bool
    folder: Path

    def rows_of(self, paths: Sequence[Path], stars: Sequence[str], data_root: Path) -> NDArray[Any]:
        """The row of each spectrum, -1 where there is none; of rows that agree the first.

        Parameters
        ----------
        paths
            The spectra's files, absolute.
        stars
            The names of their stars.
        data_root
            Paths of the table are relative to its own folder or to this one.
        """
        first: dict[str, int] = {}
        for row, name in enumerate(self.names):
            first.setdefault(name, row)
        if not self.by_path:
            return np.array([first.get(star, -1) for star in stars], dtype=np.int64)
        roots = (self.folder.resolve(), data_root.resolve())
        return np.array([_row_of(path, first, roots) for path in paths], dtype=np.int64)


def _row_of(path: Path, rows: Mapping[str, int], roots: Sequence[Path]) -> int:
    names = [str(path.relative_to(root)) for root in roots if path.is_relative_to(root)]
    return next((rows[name] for name in [*names, str(path)] if name in rows), -1)


def read_label_table(path: Path, *, complete: bool = True) -> LabelTable:
    """Read a table of labels: FITS, ECSV, CSV, VOTable or Parquet.

    Columns are our names of the labels or the peers' (``c1_h``, ``ti2_h``), in any case, with
    errors as ``e_<label>`` or ``<label>_err``. A value that is masked, not finite or at most
    -9000 is missing. A row is for the file in its column ``path`` or, where the table has
    none, for the star in ``obj``, ``apogee_id`` or ``objid``.

    Parameters
    ----------
    complete
        Whether each of the 22 labels must be known for some row, or one of them is enough.

    Raises
    ------
    UsageError
        The table cannot be read, has no column that says what its rows are for, or knows
        some label, or all of them, of no row.
    """
    columns = {name.lower(): values for name, values in read_columns(path).items()}
    key = next((name for name in (_PATH_COLUMN, *_STAR_COLUMNS) if name in columns), None)
    if key is None:
        raise UsageError(
            f"The label table {path.name} says of no row which spectrum it is for; give it a "
            f"column {_PATH_COLUMN}, or {', '.join(_STAR_COLUMNS)} with the stars' names."
        )
    try:
        return _of_columns(path, columns, key, complete=complete)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The label table {path.name} has a label that is no column of numbers: {error}."
        ) from error


def _of_columns(path: Path, columns: Mapping[str, Any], key: str, *, complete: bool) -> LabelTable:
    names = tuple(_text(value) for value in columns[key])
    missing = np.full(len(names), np.nan)
    found = [numbers(columns, _names(label)) for label in LABELS]
    labels = np.stack([missing if values is None else values for values in found], axis=1)
    known = np.isfinite(labels).any(axis=0)
    if not known.any() or (complete and not known.all()):
        lacking = [label.name for label, there in zip(LABELS, known, strict=True) if not there]
        wanted = (
            "the network needs each of its 22 labels for some spectra"
            if complete
            else "nothing can be compared with it"
        )
        raise UsageError(
            f"The label table {path.name} has no valid {', '.join(lacking)}; {wanted}."
        )
    return LabelTable(
        labels=labels,
        e_labels=np.stack([_errors(columns, label, len(names)) for label in LABELS], axis=1),
        names=names,
        by_path=key == _PATH_COLUMN,
        folder=path.parent,
    )


def _names(label: Label) -> tuple[str, str]:
    return label.name, label.peer_name


def _errors(columns: Mapping[str, Any], label: Label, n_rows: int) -> Floats:
    names = [f"e_{name}" for name in _names(label)] + [f"{name}_err" for name in _names(label)]
    errors = numbers(columns, names)
    if errors is None:
        return np.zeros(n_rows)
    return np.where(errors > 0, errors, 0.0)


def _text(value: object) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()

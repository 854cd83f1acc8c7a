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
from worker.tables.columns_of_file import numbers, read_columns, read_entry
from worker.training.aspcap_names import DUPLICATE, STAR_BAD
from worker.training.label_columns import LabelColumns, has_bits
from worker.training.label_notes import notes_of_labels

_STAR_COLUMNS = ("obj", "apogee_id", "objid", "sdss4_apogee_id", "sdss_id")
_PATH_COLUMN = "path"
#: How the survey writes that a star has no name of some kind.
_NO_NAME = ("", "-1", "0", "nan", "--", "None")


@dataclass(frozen=True)
class LabelTable:
    """Known labels of spectra or stars.

    Attributes
    ----------
    labels, e_labels
        ``(n, 22)`` in the labels' units. A missing label is NaN, a missing error 0; a row that
        is not to be used has no label.
    names
        For each row the path of its file or the name of its star.
    by_path
        Whether ``names`` are paths.
    folder
        Where the table lies.
    notes
        What was turned into something else or ignored, in sentences.
    duplicate
        ``(n,)``, whether the survey prefers another row of the same star.
    """

    labels: Floats
    e_labels: Floats
    names: tuple[str, ...]
    by_path: bool
    folder: Path
    notes: tuple[str, ...]
    duplicate: NDArray[np.bool_]

    def rows_of(self, paths: Sequence[Path], stars: Sequence[str], data_root: Path) -> NDArray[Any]:
        """The row of each spectrum, -1 where there is none.

        Of rows for the same spectrum those with labels go before those without, those that are
        no duplicates before those that are, then the first.

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
        without_labels = np.isnan(self.labels).all(axis=1)
        for row in np.lexsort((self.duplicate, without_labels)).tolist():
            first.setdefault(self.names[row], row)
        if not self.by_path:
            return np.array([first.get(star, -1) for star in stars], dtype=np.int64)
        roots = (self.folder.resolve(), data_root.resolve())
        return np.array([_row_of(path, first, roots) for path in paths], dtype=np.int64)


def _row_of(path: Path, rows: Mapping[str, int], roots: Sequence[Path]) -> int:
    names = [str(path.relative_to(root)) for root in roots if path.is_relative_to(root)]
    return next((rows[name] for name in [*names, str(path)] if name in rows), -1)


def read_label_table(path: Path) -> LabelTable:
    """Read a table of labels: FITS, ECSV, CSV, VOTable or Parquet.

    Columns are our names of the labels, the peers' (``c1_h``, ``ti2_h``) or ASPCAP's from DR13 to
    DR20 (``CI_H``, ``C_FE`` beside ``FE_H``, the array ``X_H``), in any case, with errors as
    ``e_<label>`` or ``<label>_err``. A value that is masked, not finite, at most -9000 or 99.99
    (99.999) is missing, and so is one with bad bits in its flags; a row with ``STAR_BAD`` in
    ``ASPCAPFLAG``, or with ``flag_bad``, has no labels. A row is for the file in its column
    ``path`` or, where the table has none, for the star in ``obj``, ``apogee_id``, ``objid``,
    ``sdss4_apogee_id`` or ``sdss_id``: the first of them that has a name.

    Raises
    ------
    UsageError
        The table cannot be read, has no column that says what its rows are for, or knows
        no label of any row.
    """
    original = read_columns(path)
    columns = {name.lower(): values for name, values in original.items()}
    keys = [name for name in _STAR_COLUMNS if name in columns]
    if _PATH_COLUMN in columns:
        keys = [_PATH_COLUMN]
    if not keys:
        raise UsageError(
            f"The label table {path.name} says of no row which spectrum it is for; give it a "
            f"column {_PATH_COLUMN}, or {', '.join(_STAR_COLUMNS)} with the stars' names."
        )
    try:
        table = _of_columns(path, columns, list(original), keys)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The label table {path.name} has a label that is no column of numbers: {error}."
        ) from error
    if not np.isfinite(table.labels).any():
        raise UsageError(
            f"The label table {path.name} has no valid value of any label. " + " ".join(table.notes)
        )
    return table


def _of_columns(
    path: Path, columns: Mapping[str, Any], spelling: Sequence[str], keys: Sequence[str]
) -> LabelTable:
    names = _names(columns, keys)
    reader = LabelColumns(columns, len(names), _symbols(path))
    read = reader.read()
    bad, notes_of_rows = _bad_rows(columns, len(names))
    labels = np.stack([each.values for each in read.values()], axis=1)
    labels[bad] = np.nan
    notes = notes_of_labels(read, labels, spelling, order_known=reader.order_known())
    return LabelTable(
        labels=labels,
        e_labels=np.stack([each.errors for each in read.values()], axis=1),
        names=names,
        by_path=_PATH_COLUMN in keys,
        folder=path.parent,
        notes=(*notes_of_rows, *notes),
        duplicate=_bits(columns, "extratarg", DUPLICATE, len(names)),
    )


def _symbols(path: Path) -> tuple[str, ...]:
    """The elements of the file's arrays, as a further table of it tells them."""
    symbols = read_entry(path, "ELEM_SYMBOL")
    return () if symbols is None else tuple(_text(symbol) for symbol in np.atleast_1d(symbols))


def _bad_rows(columns: Mapping[str, Any], n_rows: int) -> tuple[NDArray[np.bool_], list[str]]:
    """The rows that ASPCAP calls bad, and a sentence for each kind of them."""
    kinds = {
        "STAR_BAD in ASPCAPFLAG": _bits(columns, "aspcapflag", STAR_BAD, n_rows),
        "flag_bad": _bits(columns, "flag_bad", 1, n_rows),
    }
    counts = {kind: int(rows.sum()) for kind, rows in kinds.items()}
    return np.logical_or.reduce(list(kinds.values())), [
        f"{count} rows with {kind} are not used." for kind, count in counts.items() if count
    ]


def _bits(columns: Mapping[str, Any], name: str, bits: int, n_rows: int) -> NDArray[np.bool_]:
    if name in columns and np.ma.asarray(columns[name]).dtype.kind in "US":  # of a .csv file
        return np.array([_text(value).lower() in ("true", "1") for value in columns[name]])
    flags = numbers(columns, (name,))
    return np.zeros(n_rows, dtype=bool) if flags is None else has_bits(flags, bits)


def _names(columns: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    """For each row the first of its names that is one."""
    named = zip(*([_text(value) for value in columns[key]] for key in keys), strict=True)
    return tuple(next((name for name in row if name not in _NO_NAME), "") for row in named)


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():  # an integer beside missing ones
        value = int(value)
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()

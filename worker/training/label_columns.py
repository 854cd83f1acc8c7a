"""Labels out of the columns of a table, under the names that surveys give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.labels import LABELS, Label
from worker.tables.columns_of_file import numbers
from worker.training.aspcap_names import (
    BAD_BITS,
    BAD_BITS_OF_ASTRA,
    IRON,
    direct_names,
    elements_of,
    ratio_names,
    stems,
)

#: Catalogues write 99.99 or 99.999 for what is not known, too; no star has such a value.
_FILLED = (99.9, 100.0)

#: Arrays over the elements, as ASPCAP's tables have them.
ARRAY = "x_h"
_ERROR_ARRAYS = ("x_h_err", "e_x_h")
_FLAG_ARRAYS = ("elemflag", "x_h_flag")


@dataclass(frozen=True)
class LabelColumn:
    """One label of all rows.

    Attributes
    ----------
    values, errors
        ``(n,)`` in the label's unit. A missing value is NaN, a missing error 0.
    ratio
        The column of [X/Fe] from which the values were made; empty where there was none.
    flags
        The columns of flags that were heeded.
    n_flagged
        How many values were given up for bad bits in them.
    """

    values: Floats
    errors: Floats
    ratio: str
    flags: tuple[str, ...]
    n_flagged: int


class LabelColumns:
    """The columns of a table by which labels are found.

    Parameters
    ----------
    columns
        By names in small letters.
    symbols
        The elements of ``X_H`` as the file tells them; empty where it does not.
    """

    def __init__(self, columns: Mapping[str, Any], n_rows: int, symbols: Sequence[str]) -> None:
        self._columns = columns
        self._arrays = {
            name: array
            for name in (ARRAY, *_ERROR_ARRAYS, *_FLAG_ARRAYS)
            if name in columns and (array := np.ma.asarray(columns[name])).ndim > 1
        }
        self._n_rows = n_rows
        self._symbols = symbols

    def read(self) -> dict[str, LabelColumn]:
        """Each of the 22 labels by its name.

        A column of the label itself goes before its entry in ``X_H``, which goes before
        [X/Fe] + [Fe/H]; one without any value counts as not there.

        Raises
        ------
        TypeError, ValueError
            A column that should hold numbers does not.
        """
        iron = self._direct(IRON)
        return {label.name: self._label(label, iron) for label in LABELS}

    def order_known(self) -> bool:
        """Whether the elements of the array of abundances are known, if there is one."""
        return ARRAY not in self._arrays or bool(self._elements(ARRAY))

    def _label(self, label: Label, iron: LabelColumn) -> LabelColumn:
        direct = self._direct(label)
        found = np.isfinite(direct.values).any()
        return direct if found else self._turned(label, iron) or direct

    def _direct(self, label: Label) -> LabelColumn:
        """The label itself, from a column of its own or from the array."""
        for name in direct_names(label):
            values = _without_fill(numbers(self._columns, (name,)))
            if values is not None and np.isfinite(values).any():
                return self._unflagged(label, values, self._errors(label, direct_names(label)))
        values = _without_fill(self._of_array(label, (ARRAY,)))
        errors = self._of_array(label, _ERROR_ARRAYS)
        missing = np.full(self._n_rows, np.nan)
        return self._unflagged(
            label, missing if values is None else values, _known_errors(label, errors, self._n_rows)
        )

    def _turned(self, label: Label, iron: LabelColumn) -> LabelColumn | None:
        """[X/H] = [X/Fe] + [Fe/H], whose errors are taken as independent."""
        for name in ratio_names(label):
            ratio = _without_fill(numbers(self._columns, (name,)))
            if ratio is not None and np.isfinite(ratio + iron.values).any():
                errors = np.hypot(self._errors(label, ratio_names(label)), iron.errors)
                return self._unflagged(label, ratio + iron.values, errors, name)
        return None

    def _unflagged(
        self, label: Label, values: Floats, errors: Floats, ratio: str = ""
    ) -> LabelColumn:
        bad, flags = np.zeros(self._n_rows, dtype=bool), []
        for name, bits in self._flags(label):
            bad |= bits
            flags.append(name)
        n_flagged = int((bad & np.isfinite(values)).sum())
        return LabelColumn(np.where(bad, np.nan, values), errors, ratio, tuple(flags), n_flagged)

    def _flags(self, label: Label) -> Iterable[tuple[str, NDArray[np.bool_]]]:
        """The flags of a label that the table has, and the rows that they call bad."""
        if label.name in ("teff", "logg"):
            return
        kinds = {"_h_flag": BAD_BITS, "_fe_flag": BAD_BITS, "_h_flags": BAD_BITS_OF_ASTRA}
        for stem in stems(label):
            for ending, bits in kinds.items():
                flags = numbers(self._columns, (f"{stem}{ending}",))
                if flags is not None:
                    yield f"{stem}{ending}", has_bits(flags, bits)
        for name in _FLAG_ARRAYS:
            flags = self._of_array(label, (name,))
            if flags is not None:
                yield name, has_bits(flags, BAD_BITS)

    def _errors(self, label: Label, names: Sequence[str]) -> Floats:
        """The errors, which may go by another of the names than the values."""
        wanted = [*(f"e_{name}" for name in names), *(f"{name}_err" for name in names)]
        return _known_errors(label, numbers(self._columns, wanted), self._n_rows)

    def _of_array(self, label: Label, names: Sequence[str]) -> Floats | None:
        """The label's column of the first of some arrays that is there."""
        name = next((each for each in names if each in self._arrays), None)
        if name is None:
            return None
        elements = [f"{element.lower()}_h" for element in self._elements(name)]
        place = next((at for at, each in enumerate(elements) if each in direct_names(label)), None)
        return None if place is None else numbers({name: self._arrays[name][:, place]}, (name,))

    def _elements(self, name: str) -> Sequence[str]:
        length = self._arrays[name].shape[1]
        return self._symbols if len(self._symbols) == length else elements_of(length)


def has_bits(flags: Floats, bits: int) -> NDArray[np.bool_]:
    """Where any of some bits is set; a flag that is missing has none."""
    return np.asarray((np.nan_to_num(flags).astype(np.int64) & bits) != 0)


def _without_fill(values: Floats | None) -> Floats | None:
    if values is None:
        return None
    low, high = _FILLED
    return np.where((np.abs(values) > low) & (np.abs(values) < high), np.nan, values)


def _known_errors(label: Label, errors: Floats | None, n_rows: int) -> Floats:
    """Errors without what fills; in kelvin 99.99 may be one."""
    known = errors if label.unit == "K" else _without_fill(errors)
    return np.zeros(n_rows) if known is None else np.where(known > 0, known, 0.0)

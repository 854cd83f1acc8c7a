"""The peers' pickle of a noise model, read without running what it may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worker.plain_pickle import PlainUnpickler, RefusedError


class _Number(float):
    """Stands in for ``scalar`` of numpy: one plain number out of its bytes."""

    def __new__(cls, dtype: _Dtype, content: bytes) -> _Number:
        if len(content) != dtype.plain.itemsize:
            raise RefusedError("a number of another size")
        return super().__new__(cls, float(np.frombuffer(content, dtype.plain)[0]))

    def __setstate__(self, state: object) -> None:
        raise RefusedError("a state for a number")


class _Dtype:
    """Stands in for ``numpy.dtype``: integers and floats alone."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _PLAIN_TYPES:
            raise RefusedError("a type that is no plain number")
        self.plain = np.dtype(code)

    def __setstate__(self, state: Sequence[object]) -> None:
        order, *rest = state[1:5]
        if order not in ("<", ">", "|", "=") or rest != [None, None, None]:
            raise RefusedError("a type that is no plain number")
        self.plain = self.plain.newbyteorder(order)


class _Array:
    """Stands in for ``numpy.ndarray`` and its reconstruction; no factor is an array."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_PLAIN_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "scalar"): _Number,  # written by numpy 1
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _Number,  # written by numpy 2
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Array,  # by pickle's protocol 5
    ("numpy._core.numeric", "_frombuffer"): _Array,
}


class _Unpickler(PlainUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            return super().find_class(module, name)


def read_pickle(content: bytes) -> Any:
    """The corrections in a pickle of the peers: plain numbers and texts, by label.

    Raises
    ------
    RefusedError
        It holds what no such file needs.
    """
    corrections, _meta = _Unpickler(content).load()
    return corrections

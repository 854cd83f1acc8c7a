"""Arrow's arrays, made from numpy's and turned into them by their buffers.

``pyarrow.array`` and ``to_numpy`` import pandas wherever that is installed, which takes longer
than everything else that a small run imports but torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

#: Arrow's types by those of a column of results.
ARROW_TYPES = {
    "str": pa.string(),
    "bool": pa.bool_(),
    "i4": pa.int32(),
    "i8": pa.int64(),
    "f4": pa.float32(),
    "f8": pa.float64(),
}
_NUMPY_TYPES = {arrow: kind for kind, arrow in ARROW_TYPES.items() if kind not in ("str", "bool")}


def arrow_numbers(values: NDArray[Any], dtype: str, missing: NDArray[np.bool_] | None) -> pa.Array:
    """Numbers or truths, ``(n,)``, as an array of this type; ``missing`` ones are null."""
    known = None if missing is None or not missing.any() else _bits(~missing)
    content = _bits(values) if dtype == "bool" else np.ascontiguousarray(values, dtype)
    buffers = [known if known is None else pa.py_buffer(known), pa.py_buffer(content)]
    return pa.Array.from_buffers(ARROW_TYPES[dtype], len(values), buffers)


def arrow_texts(values: Sequence[str]) -> pa.Array:
    """Texts as an array."""
    encoded = [text.encode() for text in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def numpy_numbers(values: pa.Array, missing: float | None = None) -> NDArray[Any]:
    """The numbers or truths of an array, where one is null ``missing``, or else NaN or 0."""
    content = values.buffers()[1]
    if pa.types.is_boolean(values.type):
        return _truths(content, values)
    dtype = np.dtype(_NUMPY_TYPES[values.type])
    numbers = np.frombuffer(content, dtype, len(values), values.offset * dtype.itemsize)
    if values.null_count:
        numbers = numbers.copy()
        instead = np.nan if dtype.kind == "f" else 0
        numbers[nulls(values)] = instead if missing is None else missing
    return numbers


def nulls(values: pa.Array) -> NDArray[np.bool_]:
    """Where an array is null."""
    known = values.buffers()[0]
    return np.zeros(len(values), dtype=bool) if known is None else ~_truths(known, values)


def _truths(bits: pa.Buffer, values: pa.Array) -> NDArray[np.bool_]:
    truths = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return truths[values.offset : values.offset + len(values)].astype(bool)


def _bits(truths: NDArray[Any]) -> NDArray[np.uint8]:
    return np.packbits(np.asarray(truths, dtype=bool), bitorder="little")

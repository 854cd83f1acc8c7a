"""The post-hoc noise model: ``e_label = scale * raw_e_label + offset``, label by label.

The factors come from the peers' pickle ``(corrections, meta)``, or from JSON or TOML of the
form ``{label: {"scale": ..., "offset": ...}}``. A pickle can run code, so it is read by an
unpickler that knows the numpy names that such a file needs and refuses all others; and since
numpy itself crashes on forged arrays and types, it gets stand-ins of ours in numpy's place.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError
from worker.labels import LABELS

#: The peers' files are 70 kB; no list of 22 pairs of factors needs more than this.
_LARGEST_FILE = 16 << 20


@dataclass(frozen=True)
class NoiseModel:
    """Scale and offset per label, ``(22,)`` each, and the SHA-256 of the file they came from.

    Offsets are in the labels' units. ``sha256`` is None for the identity.
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    sha256: str | None

    def apply(self, raw_e_labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated uncertainties, ``(..., 22)``."""
        return self.scale * raw_e_labels + self.offset


def identity() -> NoiseModel:
    """The noise model that leaves uncertainties as they are."""
    return NoiseModel(np.ones(len(LABELS)), np.zeros(len(LABELS)), None)


def read_noise_model(path: Path | None) -> NoiseModel:
    """Read the factors of a ``.pkl``, ``.json`` or ``.toml`` file; identity without one.

    Raises
    ------
    FatalError
        The file cannot be read, would run code, or lacks a finite factor for some label.
    """
    if path is None:
        return identity()
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise FatalError(f"The corrections {path} are larger than 16 MiB.")
        content = path.read_bytes()
    except OSError as error:
        raise FatalError(f"The corrections {path} cannot be read: {error.strerror}.") from error
    factors = _parse(path, content)
    pairs = [_pair(path, factors, label.name, label.peer_name) for label in LABELS]
    scale, offset = np.array(pairs).T
    return NoiseModel(scale, offset, hashlib.sha256(content).hexdigest())


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    readers: dict[str, Callable[[bytes], Any]] = {
        ".pkl": _read_pickle,
        ".json": json.loads,
        ".toml": lambda text: tomllib.loads(text.decode()),
    }
    if path.suffix not in readers:
        raise FatalError(f"The corrections {path.name} are no .pkl, .json or .toml file.")
    try:
        factors = readers[path.suffix](content)
    except _RefusedError as error:
        raise FatalError(
            f"The corrections {path.name} are refused: the pickle asks for {error}, which no "
            "corrections file needs. Nothing of it was run."
        ) from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise FatalError(f"The corrections {path.name} cannot be read: {error}.") from error
    if not isinstance(factors, Mapping):
        raise FatalError(f"The corrections {path.name} hold no table of labels.")
    return factors


def _pair(path: Path, factors: Mapping[str, Any], *names: str) -> tuple[float, float]:
    entry = next((factors[name] for name in names if name in factors), None)
    try:
        pair = (float(entry["scale"]), float(entry["offset"]))  # type: ignore[index]
    except (TypeError, LookupError, ValueError, OverflowError) as error:
        raise FatalError(
            f"The corrections {path.name} give no scale and offset for {names[0]}."
        ) from error
    if not np.isfinite(pair).all():
        raise FatalError(f"The corrections {path.name} are not finite for {names[0]}.")
    return pair


class _RefusedError(Exception):
    """The pickle asks for a name that is not on the list."""


class _Number(float):
    """Stands in for ``scalar`` of numpy: one plain number out of its bytes."""

    def __new__(cls, dtype: _Dtype, content: bytes) -> _Number:
        if len(content) != dtype.plain.itemsize:
            raise _RefusedError("a number of another size")
        return super().__new__(cls, float(np.frombuffer(content, dtype.plain)[0]))

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("a state for a number")


class _Dtype:
    """Stands in for ``numpy.dtype``: integers and floats alone."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _PLAIN_TYPES:
            raise _RefusedError(f"the type {code!r}")
        self.plain = np.dtype(code)

    def __setstate__(self, state: Sequence[object]) -> None:
        order, *rest = state[1:5]
        if order not in ("<", ">", "|", "=") or rest != [None, None, None]:
            raise _RefusedError("a type that is no plain number")
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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"a persistent object {pid!r}")


def _read_pickle(content: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(content):
        # The memo grows to the highest number that is put into it.
        if "PUT" in opcode.name and int(argument or 0) > len(content):
            raise _RefusedError(f"the memory of {argument} objects")
    corrections, _meta = _Unpickler(io.BytesIO(content)).load()
    return corrections

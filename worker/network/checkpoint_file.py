"""The file of a checkpoint as PyTorch writes it: a zip of one pickle and the numbers of tensors.

It may be hostile, and PyTorch's own reader, though it runs nothing, spends what a file claims:
a kilobyte can keep it busy for ever, or fill the memory. So the pickle is read by an unpickler of
ours, which makes descriptions of tensors, and numbers are read when they are asked for, no more
than the description of the file says. Python's zipfile is the only reader of the zip: two
directories in one file cannot be taken for each other.
"""

from __future__ import annotations

import io
import math
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from worker.errors import FatalError
from worker.plain_pickle import PlainUnpickler, RefusedError, Step

if TYPE_CHECKING:
    from torch import Tensor

_PICKLE = re.compile(r"[^/]*/data\.pkl")
#: Ten times what a network's file has; both take a quarter of a second at most.
_LARGEST_PICKLE = _LARGEST_DIRECTORY = 2**18
_MOST_AXES = 8
#: What describes a tensor: its storage, offset, shape and strides.
_FORM = 4
#: PyTorch's kinds of storage that hold plain numbers: their type, and bytes a number.
_STORAGES = {
    **{"BoolStorage": ("bool", 1), "ByteStorage": ("uint8", 1), "CharStorage": ("int8", 1)},
    **{"ShortStorage": ("int16", 2), "IntStorage": ("int32", 4), "LongStorage": ("int64", 8)},
    **{"HalfStorage": ("float16", 2), "BFloat16Storage": ("bfloat16", 2)},
    **{"FloatStorage": ("float32", 4), "DoubleStorage": ("float64", 8)},
}


@dataclass(frozen=True)
class Storage:
    """Numbers of a file; tensors may share them."""

    kind: str
    key: str
    numbers: int

    @property
    def dtype(self) -> str:
        """Their type, such as ``float16``."""
        return _STORAGES[self.kind][0]

    @property
    def bytes(self) -> int:
        """The room that they take."""
        return self.numbers * _STORAGES[self.kind][1]


class StoredTensor:
    """A tensor as a file describes it; its numbers have not been read.

    Attributes
    ----------
    plain
        Whether it consists of plain numbers that lie in the file, each once. Of another kind
        of tensor nothing else is known.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, *form: Any) -> None:
        self.plain = len(form) >= _FORM and _is_plain(*form[:_FORM])
        if self.plain:
            self.storage, self.offset, self.shape, self.strides = form[:_FORM]

    @property
    def bytes(self) -> int:
        """The room that its numbers take."""
        return math.prod(self.shape) * self.storage.bytes // max(self.storage.numbers, 1)


def _is_plain(storage: object, offset: Any, shape: Any, strides: Any) -> bool:
    if not isinstance(storage, Storage) or not all(map(_are_sizes, ((offset,), shape, strides))):
        return False
    if len(shape) != len(strides):
        return False
    size = math.prod(shape)
    room = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    return bool(size == 0 or size <= room <= storage.numbers - offset)


def _are_sizes(values: object) -> bool:
    return (
        isinstance(values, tuple)
        and len(values) <= _MOST_AXES
        and all(type(each) is int and 0 <= each < 2**40 for each in values)
    )


class CheckpointFile:
    """An opened file: what it holds, with :class:`StoredTensor` for its tensors."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = [name for name in archive.namelist() if _PICKLE.fullmatch(name)]
        if len(names) != 1:
            raise zipfile.BadZipFile("no pickle, or several")
        self._archive, self._folder = archive, names[0].partition("/")[0]
        self._numbers: dict[Storage, Tensor] = {}
        order = f"{self._folder}/byteorder"
        if order in archive.namelist() and _member(archive, order, 8).decode() != sys.byteorder:
            raise zipfile.BadZipFile("numbers of a machine of another kind")
        self.content: object = _Unpickler(_member(archive, names[0], _LARGEST_PICKLE)).load()

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The numbers of a plain tensor of the file.

        Raises
        ------
        BadZipFile
            The file does not hold as many as it says.
        """
        if stored.storage not in self._numbers:
            self._numbers[stored.storage] = self._read(stored.storage)
        numbers = self._numbers[stored.storage]
        return numbers.as_strided(stored.shape, stored.strides, stored.offset)

    def _read(self, storage: Storage) -> Tensor:
        import torch

        content = _member(self._archive, f"{self._folder}/data/{storage.key}", storage.bytes)
        if len(content) != storage.bytes:
            raise zipfile.BadZipFile("a storage of another size")
        dtype: torch.dtype = getattr(torch, storage.dtype)
        if not content:
            return torch.zeros(0, dtype=dtype)
        if dtype == torch.bool:  # a byte can be more than 1
            return torch.frombuffer(bytearray(content), dtype=torch.uint8) != 0
        return torch.frombuffer(bytearray(content), dtype=dtype)


@contextmanager
def opened(path: Path) -> Iterator[CheckpointFile]:
    """Open a file and read its pickle.

    Raises
    ------
    FatalError
        The file cannot be read, or is damaged, or no such file. Also raised of what is read
        within the context.
    """
    try:
        with _File(path) as file, zipfile.ZipFile(file) as archive:
            file.longest = sys.maxsize
            yield CheckpointFile(archive)
    except FatalError:
        raise
    except OSError as error:
        raise FatalError(f"The weights {path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # damaged files raise nearly anything
        raise FatalError(
            f"{path.name} is not a PyTorch checkpoint of plain tensors; it was not loaded."
        ) from error


class _File(io.FileIO):
    """A file of which zipfile cannot read a directory of any length."""

    longest = _LARGEST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, unless that is more than a directory has, while there is such a bound."""
        if size is not None and size > self.longest:
            raise zipfile.BadZipFile("a directory of another size")
        return super().read(size) or b""


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    """A member of the archive, which may not be larger than that."""
    entry = archive.getinfo(name)
    if entry.file_size > most_bytes or entry.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise zipfile.BadZipFile("a member of another size or kind")
    with archive.open(entry) as member:
        return member.read(entry.file_size)  # without a number it would unpack all there is


class _Table(dict[Any, Any]):
    """Stands in for OrderedDict, which would take its entries from anything."""

    def __init__(self) -> None:
        super().__init__()


def _parameter(data: object, *_: object) -> object:
    """Stands in for the making of a parameter of a tensor."""
    return data


def _no_state(unpickler: Any) -> None:
    """Leave out what else an object has: PyTorch notes versions of layers there."""
    unpickler.stack.pop()


class _Unpickler(PlainUnpickler):
    dispatch: ClassVar[dict[int, Step]] = {**PlainUnpickler.dispatch, b"b"[0]: _no_state}

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for here."""
        known = {
            ("collections", "OrderedDict"): _Table,
            ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return name
        if module.partition(".")[0] == "torch" or (module, name) == ("_codecs", "encode"):
            return _Foreign
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """A storage; None for one of other than plain numbers."""
        match pid:
            case ("storage", str(kind), str(key), str(), int(numbers)) if kind in _STORAGES:
                return Storage(kind, key, numbers)
            case ("storage", *_):
                return None
        raise RefusedError("a persistent object")


class _Foreign(StoredTensor):
    """Stands in for all else that PyTorch writes, bytes too; it is no plain tensor."""

    def __init__(self, *_: object) -> None:
        super().__init__()

"""Tables of FITS files that are larger than memory: named columns, a block of rows at a time."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from worker.errors import UsageError
from worker.spectra.formats.gzip_stream import MAGIC, GzipStream
from worker.spectra.formats.header_blocks import MOST_HDUS, HeaderBlocks

#: Bytes of the table that are read at a time.
_BLOCK_BYTES = 8 << 20
#: Bytes that are unpacked at a time, headers among them: to go back further unpacks all anew.
_UNPACKED_BYTES = 1 << 20


class FitsTable:
    """The first table of a FITS file, plain or gzipped, whose columns are named in lower case.

    Neither is the file mapped into memory, where its pages would count, nor is any of it kept.

    Raises
    ------
    UsageError
        The file cannot be read, or holds no whole table.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with warnings.catch_warnings(action="ignore"), self._opened() as file:
                # What matters is checked here. Not closed: that would read the file to its end.
                hdus = fits.open(HeaderBlocks(file), memmap=False)
                tables = (each for each in islice(hdus, MOST_HDUS) if _is_table(each))
                if (table := next(tables, None)) is None:
                    raise UsageError(f"{path} holds no table.")
                self._dtype: np.dtype[Any] = table.columns.dtype.newbyteorder(">")
                if self._dtype.itemsize != table.header["NAXIS1"]:
                    raise UsageError(f"{path} holds a table whose columns do not fill its rows.")
                if self._dtype.itemsize > _BLOCK_BYTES:
                    raise UsageError(f"{path} holds a table whose rows are longer than 8 MiB.")
                self._columns = {
                    column.name.lower(): column
                    for column in table.columns
                    if not self._dtype[column.name].shape
                }
                self._rows = int(table.header["NAXIS2"])
                self._start = int(table.fileinfo()["datLoc"])
        except UsageError:
            raise
        except Exception as error:  # astropy raises anything on damaged files
            raise UsageError(f"{path} cannot be read as a FITS table: {_reason(error)}.") from error

    def __len__(self) -> int:
        return self._rows

    @property
    def kinds(self) -> dict[str, str]:
        """The columns that hold one value a row, and what numpy calls its kind."""
        return {name: self._dtype[column.name].kind for name, column in self._columns.items()}

    def blocks(self, names: Collection[str]) -> Iterator[NDArray[Any]]:
        """The rows in their order, some thousand at a time, with these columns alone.

        Raises
        ------
        UsageError
            The file ends before its table does.
        """
        names_there = {name: self._columns[name].name for name in names}
        kept = np.dtype([(name, self._dtype[there]) for name, there in names_there.items()])
        at_once = max(1, _BLOCK_BYTES // self._dtype.itemsize)
        with self._opened() as file:
            file.seek(self._start)
            for first in range(0, self._rows, at_once):
                content = self._read(file, first, min(at_once, self._rows - first))
                block = np.frombuffer(content, dtype=self._dtype)
                rows = np.empty(len(block), kept)
                for name, there in names_there.items():
                    rows[name] = block[there]
                yield rows

    def values(self, rows: NDArray[Any], name: str) -> list[Any]:
        """A column of rows of this table as Python's values; None where a row has none."""
        column, values = self._columns[name], rows[name]
        if values.dtype.kind == "S":
            return [_text(value) for value in values.tolist()]
        if values.dtype.kind == "f":
            return [value if np.isfinite(value) else None for value in values.tolist()]
        zero = int(column.bzero or 0)  # how FITS writes unsigned numbers
        return [value + zero if value != column.null else None for value in values.tolist()]

    def _opened(self) -> BinaryIO:
        file = self._path.open("rb")
        if not file.peek(len(MAGIC)).startswith(MAGIC):
            return file
        return cast(BinaryIO, io.BufferedReader(GzipStream(file), _UNPACKED_BYTES))

    def _read(self, file: BinaryIO, first: int, rows: int) -> bytes:
        size = rows * self._dtype.itemsize
        try:
            content = file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{self._path} cannot be read: {_reason(error)}.") from error
        if len(content) < size:
            raise UsageError(
                f"{self._path} is cut off: it announces {self._rows} rows and ends after "
                f"{first + len(content) // self._dtype.itemsize}."
            )
        return content


def _is_table(hdu: Any) -> bool:
    return isinstance(hdu, fits.BinTableHDU)


def _text(value: bytes) -> str | None:
    """A padded text without its padding; what is no ASCII stays recognisable."""
    text = value.split(b"\0", 1)[0].decode("ascii", errors="backslashreplace").strip()
    return text or None


def _reason(error: Exception) -> str:
    """The first sentence of an error; those of astropy go on with advice for programmers."""
    text: str = getattr(error, "strerror", None) or str(error)
    return text.split(". ", 1)[0].rstrip(".")

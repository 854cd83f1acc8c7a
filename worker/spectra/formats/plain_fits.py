"""A lean reader of plain FITS files: as much of the standard as apStar files use, no more.

astropy takes 2 to 3 ms to open a file of ten HDUs, mostly to understand cards that are not
needed. This reader takes a tenth of a millisecond because it knows one way only in which a file
can be written: headers of plain cards, each keyword once; extensions whose structure cards
stand in the standard's order; data of exactly the length that the headers say, up to the
last byte. Of anything else it says that it is unusual, not that it is wrong: astropy judges
such files, so that there is one judge of damage.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.spectra.formats.header_blocks import BLOCK, MOST_HDUS

_CARD = 80
#: In blocks. A thousand visits need fewer; what extensions say is kept, so they get less.
_LONGEST_PRIMARY = 1000
_LONGEST_EXTENSION = 20
_MOST_AXES = 3


def _padded(key: str) -> bytes:
    return key.ljust(8).encode()


#: A keyword with its value and comment, or a commentary card.
_A_CARD = re.compile(
    rb"([A-Z0-9_-][A-Z0-9_ -]{7})= (.{70})|(?:COMMENT |HISTORY | {8}(?!= )).{72}", re.DOTALL
)
_PRINTABLE = bytes(range(ord(" "), ord("~") + 1))
#: Text, a number, a logical value or nothing.
_A_VALUE = re.compile(rb" *(?:'([^']*)'|([+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?)|([TF])|) *(?:/.*)?")
#: Cards with a meaning of their own, or which change what the bytes of an image mean.
_SPECIAL = {_padded(key) for key in ("END", "CONTINUE", "GROUPS", "BSCALE", "BZERO", "BLANK")}
#: What astropy looks into in a primary header, beside its structure.
_ASKED_FOR = ("CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "EXTLEVEL")
_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

Value = str | int | float | bool | None


class Unusual(Exception):  # noqa: N818 - it is no error: astropy may find the file sound
    """A file, or a card of it, that this reader does not know; astropy may."""


class PlainHeader:
    """The cards of a header; a value is looked into when it is asked for.

    None is ever lost: one that cannot be read is unusual.
    """

    lost: tuple[str, ...] = ()

    def __init__(self, header: bytes) -> None:
        end = len(header.rstrip(b" ")) - len(b"END")
        cards = _A_CARD.findall(header, 0, end)
        self._fields: dict[bytes, bytes] = dict(cards)
        commentary = cards.count((b"", b""))
        self._fields.pop(b"", None)
        # All matches are a card long: if they are as many as the cards, nothing is left out.
        complete = len(cards) * _CARD == end and not header.translate(None, _PRINTABLE)
        if not complete or len(self._fields) < len(cards) - commentary:
            raise Unusual
        if not _SPECIAL.isdisjoint(self._fields):
            raise Unusual

    def __contains__(self, key: str) -> bool:
        return _padded(key) in self._fields

    def begins_with(self, *keys: str) -> bool:
        """Whether these are the first keywords, commentary apart, in this order."""
        return list(islice(self._fields, len(keys))) == [_padded(key) for key in keys]

    def get(self, key: str) -> Value:
        """The value of a card; None where there is no such card, or no value on it."""
        field = self._fields.get(_padded(key))
        if field is None:
            return None
        match = _A_VALUE.fullmatch(field)
        if match is None:
            raise Unusual
        text, number, logical = match.groups()
        if text is not None:
            if b": " in text:  # astropy may take it for a record of several values
                raise Unusual
            return str(text, "ascii")
        if number is not None:
            return int(number) if number.lstrip(b"+-").isdigit() else float(number)
        return None if logical is None else bool(logical == b"T")

    def check(self) -> None:
        """Look into every value: of which of them astropy asks is for it to say."""
        for key in self._fields:
            self.get(str(key, "ascii"))

    def integer(self, key: str) -> int:
        """A value that has to be a whole number."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unusual
        return value

    def count(self, key: str) -> int:
        """A value that has to be a whole number and not negative."""
        value = self.integer(key)
        if value < 0:
            raise Unusual
        return value


class _Extension(NamedTuple):
    """What the header of an extension says of its data; ``span`` is padded to whole blocks."""

    header: PlainHeader
    is_image: bool
    type: str
    shape: tuple[int, ...]
    span: int


class PlainFits:
    """The primary header and the images of a file.

    Parameters
    ----------
    stream
        The file; it is left open.
    size
        Its length in bytes.

    Raises
    ------
    Unusual
        It is not written in the one way that this reader knows, or is not whole.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        block = self._header_at(0, _LONGEST_PRIMARY)
        self.header = _primary(block)
        self._extensions: list[tuple[int, _Extension]] = []
        end = len(block)
        while end < size and len(self) < MOST_HDUS:
            block = self._header_at(end, _LONGEST_EXTENSION)
            start, extension = end + len(block), _extension(block)
            self._extensions.append((start, extension))
            end = start + extension.span
        if end != size:
            raise Unusual

    def __len__(self) -> int:
        """The number of HDUs."""
        return 1 + len(self._extensions)

    def header_of(self, number: int) -> PlainHeader:
        """The header of an image."""
        return self._image(number)[1].header

    def type(self, number: int) -> np.dtype[Any]:
        """The type of the numbers in an image."""
        return np.dtype(self._image(number)[1].type)

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of an image, as numpy has it."""
        return self._image(number)[1].shape

    def row(self, number: int, row: int) -> NDArray[Any]:
        """A row of an image, big-endian as in the file."""
        start, extension = self._image(number)
        kind = np.dtype(extension.type)
        length = extension.shape[-1] * kind.itemsize
        self._stream.seek(start + row * length)
        content = self._stream.read(length)
        if len(content) < length:  # somebody has cut it meanwhile
            raise Unusual
        return np.frombuffer(content, kind)

    def _image(self, number: int) -> tuple[int, _Extension]:
        if not 0 < number < len(self) or not self._extensions[number - 1][1].is_image:
            raise Unusual
        return self._extensions[number - 1]

    def _header_at(self, start: int, longest: int) -> bytes:
        """A header with its padding; its last card but blanks is END."""
        self._stream.seek(start)
        blocks: list[bytes] = []
        for _ in range(longest):
            block = self._stream.read(BLOCK)
            blocks.append(block)
            written = block.rstrip(b" ")
            if len(block) < BLOCK:
                break
            if written.endswith(b"END") and len(written) % _CARD == len(b"END"):
                return b"".join(blocks)
        raise Unusual


def _primary(block: bytes) -> PlainHeader:
    """The header of a file whose data are all in extensions."""
    header = PlainHeader(block)
    if not header.begins_with("SIMPLE", "BITPIX", "NAXIS"):
        raise Unusual
    if "PCOUNT" in header or "GCOUNT" in header:
        raise Unusual
    for key in _ASKED_FOR:
        header.get(key)
    if header.get("SIMPLE") is not True or header.get("EXTEND") is not True:
        raise Unusual
    if header.integer("BITPIX") not in _TYPES or header.integer("NAXIS") != 0:
        raise Unusual
    return header


@lru_cache(maxsize=256)  # files of one kind and as many visits share their extensions' headers
def _extension(block: bytes) -> _Extension:
    header = PlainHeader(block)
    header.check()
    axes = [f"NAXIS{n}" for n in range(1, min(header.count("NAXIS"), _MOST_AXES) + 1)]
    if not header.begins_with("XTENSION", "BITPIX", "NAXIS", *axes, "PCOUNT", "GCOUNT"):
        raise Unusual
    kind, bits = header.get("XTENSION"), header.integer("BITPIX")
    shape = tuple(header.count(axis) for axis in reversed(axes))
    parameters = header.count("PCOUNT")
    plain = (kind == "IMAGE   " and parameters == 0) or kind == "BINTABLE"
    if not plain or header.integer("GCOUNT") != 1 or bits not in _TYPES:
        raise Unusual
    size = (prod(shape) + parameters) * abs(bits) // 8 if shape else 0
    return _Extension(header, kind != "BINTABLE", _TYPES[bits], shape, -(-size // BLOCK) * BLOCK)

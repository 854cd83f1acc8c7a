"""Unpacking of gzip files that nobody vouches for.

Python's own :mod:`gzip` takes the name in a member's header and the zeros behind a member byte by
byte, a second for each MiB.
"""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from typing_extensions import Buffer

MAGIC = b"\x1f\x8b"
_CHUNK = 16 << 10
#: Bytes that may give nothing: names, and members and blocks without content. Real files have
#: some hundred; they cost up to a microsecond each.
_MOST_IDLE = 1 << 20
_GZIP_WINDOW = 31  # zlib's word for a gzip header, and its checksum at the end


class GzipStream(io.RawIOBase):
    """What a gzip file holds. It can be read again from its start, which unpacks it anew.

    Members that follow one another are one content; zeros behind the last are passed over.

    Parameters
    ----------
    packed
        The file, which is closed with the stream.

    Raises
    ------
    OSError, EOFError, zlib.error
        On reading, where it is damaged, is cut off, or has too much that gives no content.
    """

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._rewind()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, at a cost."""
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """As :class:`io.RawIOBase` has it."""
        view = memoryview(buffer).cast("B")
        content = self._some(len(view)) if view else b""
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        """As :class:`io.RawIOBase` has it."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place counted from the start; beyond the end is the end."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only places from the start are known")
        if offset < self._position:
            self._rewind()
        while self._position < offset and self.read(min(offset - self._position, 1 << 20)):
            pass
        return self._position

    def close(self) -> None:
        """Close the file too."""
        self._packed.close()
        super().close()

    def _rewind(self) -> None:
        self._packed.seek(0)
        self._position = self._idle = 0
        self._rest = b""
        self._member = zlib.decompressobj(_GZIP_WINDOW)

    def _some(self, most: int) -> bytes:
        """The next bytes, at least one; none at the end."""
        while not self._member.eof or self._next_member():
            rest = self._rest or self._packed.read(_CHUNK)
            content = self._member.decompress(rest, most)
            self._rest = self._member.unconsumed_tail or self._member.unused_data
            self._count_idle(len(rest) - len(self._rest) - len(content))
            if content:
                return content
            if not rest and not self._member.eof:
                raise EOFError("it ends in the middle of what is packed")
        return b""

    def _next_member(self) -> bool:
        """Whether something follows but zeros; their number is that of the file's bytes."""
        rest = self._rest.lstrip(b"\0")
        while not rest and (chunk := self._packed.read(_CHUNK)):
            rest = chunk.lstrip(b"\0")
        self._rest = rest
        if rest:
            self._member = zlib.decompressobj(_GZIP_WINDOW)
        return bool(rest)

    def _count_idle(self, wasted: int) -> None:
        self._idle += max(0, wasted)
        if self._idle > _MOST_IDLE:
            raise OSError("more than 1 MiB of its packed bytes hold nothing")

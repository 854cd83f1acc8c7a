"""The headers that astropy is given to read, so few and small that it comes to an end."""

from __future__ import annotations

import io
import re
from typing import BinaryIO

BLOCK = 2880
MOST_HDUS = 100
MANY_HDUS = f"has more than {MOST_HDUS} HDUs: it is no apStar file"
#: Of all HDUs together; the lean reader takes fewer. They cost astropy a second at most.
_MOST_BLOCKS = 4000
ABSURD_SIZES = "HDU sizes make no sense"
#: The standard allows 999 axes; astropy would count any number of them.
_ABSURD_AXES = re.compile(rb"NAXIS *= *\+?\d{4}", re.IGNORECASE)


class HeaderBlocksError(Exception):
    """Headers that no file of the survey has; no OSError, which astropy may pass over."""


class HeaderBlocks:
    """A stream for ``fits.open``, which asks for headers block by block, and for data at once.

    A header without an end, many headers, or one with very many axes would keep astropy for
    minutes and take gigabytes.

    Parameters
    ----------
    source
        The file, which is left open.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source, self._place, self._blocks = source, 0, 0

    def tell(self) -> int:
        """Where the next block is read."""
        return self._place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Read from another place next; the source goes there then, as astropy may not read on.

        A packed source knows its end only once it is unpacked. astropy goes there to learn the
        size, and takes 0 for one that nobody knows.
        """
        self._place = place if whence == io.SEEK_SET else 0
        return self._place

    def read(self, size: int = -1) -> bytes:
        """As the source's.

        Raises
        ------
        HeaderBlocksError
            It is a block too many, or says that there are absurdly many axes.
        """
        self._source.seek(self._place)
        content = self._source.read(size)
        self._place += len(content)
        if size == BLOCK:
            self._blocks += 1
            if self._blocks > _MOST_BLOCKS:
                raise HeaderBlocksError(f"its headers are longer than {_MOST_BLOCKS} blocks")
            if _ABSURD_AXES.search(content):  # no card lies in two blocks
                raise HeaderBlocksError(ABSURD_SIZES)
        return content

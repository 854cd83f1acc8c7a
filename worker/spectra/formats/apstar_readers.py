"""The two readers of an open apStar file: a lean one for whole plain files, and astropy.

The lean reader takes what it is sure of. astropy takes the rest, and is the one judge of what
is damaged, incomplete or no apStar file: the reasons for which a file is refused are given here
alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from worker.errors import SpectrumError, StreamError
from worker.spectra.formats.header_blocks import (
    ABSURD_SIZES,
    BLOCK,
    MANY_HDUS,
    MOST_HDUS,
    HeaderBlocks,
)
from worker.spectra.formats.plain_fits import PlainFits, Unusual
from worker.spectra.formats.wrong_kinds import APVISIT, PACKED_IMAGES
from worker.spectra.pixels import N_APSTAR

IMAGES = FLUX, ERROR, MASK = 1, 2, 3
_LEAST_HDUS = 10

T = TypeVar("T")


class Header(Protocol):
    """The cards of the primary header."""

    @property
    def lost(self) -> Sequence[str]:
        """The cards that were asked for, are there, and cannot be read."""

    def get(self, key: str, /) -> Any:
        """The value of a card, None where there is none or it cannot be read."""


class ApStarReader(Protocol):
    """A whole apStar file, open, as one of the two readers sees it."""

    @property
    def header(self) -> Header:
        """The primary header."""

    @property
    def n_rows(self) -> int:
        """How many rows its images have."""

    def header_of(self, number: int, /) -> Header:
        """The header of one of the three images."""

    def row(self, number: int, row: int, /) -> NDArray[Any]:
        """A row of one of the three images, ``(8575,)``, in the file's own type."""


class PlainApStar(PlainFits):
    """An apStar file in which nothing is unusual."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        super().__init__(source, size)
        shapes = [self.shape(number) for number in IMAGES]
        kinds = "".join(self.type(number).kind for number in IMAGES)
        if len(self) < _LEAST_HDUS or _misfit(shapes) is not None or kinds != "ffi":
            raise Unusual
        self.n_rows = prod(shapes[0][:-1])
        if self.n_rows < 1:
            raise Unusual


class AstropyHeader:
    """The cards of a header, each read by itself: a damaged one takes none with it."""

    def __init__(self, header: fits.Header) -> None:
        self._header = header
        self.lost: list[str] = []

    def get(self, key: str) -> Any:
        """As :meth:`Header.get` says."""
        try:
            value = self._header.get(key)
            return None if isinstance(value, fits.card.Undefined) else value
        except Exception:  # noqa: BLE001 - astropy raises anything on a damaged card
            self.lost.append(key)
            return None


class AstropyApStar:
    """An apStar file as astropy reads it."""

    def __init__(self, path: Path, hdus: fits.HDUList) -> None:
        self._path, self._hdus = path, hdus
        self.header = AstropyHeader(hdus[0].header)
        self.n_rows = prod(hdus[FLUX].shape[:-1])

    def header_of(self, number: int) -> AstropyHeader:
        """As :meth:`ApStarReader.header_of` says."""
        return AstropyHeader(self._hdus[number].header)

    def row(self, number: int, row: int) -> NDArray[Any]:
        """As :meth:`ApStarReader.row` says; the whole image is read."""
        data = self._hdus[number].data
        if data is None:
            raise SpectrumError(f"{self._path.name} has no data in HDU {number}.")
        return np.asarray(np.atleast_2d(data)[row])


def read_with(read: Callable[[ApStarReader], T], path: Path, source: BinaryIO, size: int) -> T:
    """What ``read`` makes of an open file of so many bytes.

    Raises
    ------
    SpectrumError
        It is no apStar file, or is damaged or incomplete.
    """
    with suppress(Unusual, OSError):
        return read(PlainApStar(source, size))
    with _judged(path, source, size) as hdus:
        return read(AstropyApStar(path, hdus))


@contextmanager
def _judged(path: Path, source: BinaryIO, size: int) -> Iterator[fits.HDUList]:
    """Let astropy open a file, and make sure that it is a whole apStar file.

    A file that is still being written, or was cut off, opens without complaint and reads as
    fewer HDUs or as zeros; hence the checks.
    """
    with warnings.catch_warnings():
        # astropy warns about what is checked here, and about harmless header cards.
        warnings.simplefilter("ignore")
        try:
            source.seek(0)
            # An image that is packed in a table may unpack to any size; apStar files have none.
            options = {"memmap": False, "disable_image_compression": True}
            # Not closed: that would read all HDUs, which the check may have stopped.
            hdus = fits.open(HeaderBlocks(source), **options)
            _check(path, hdus, size)
            yield hdus
        except (StreamError, MemoryError):
            raise
        except Exception as error:  # astropy raises anything on damaged files
            raise SpectrumError(
                f"{path.name} cannot be read as FITS ({error}); it is damaged or incomplete."
            ) from error


def _check(path: Path, hdus: fits.HDUList, size: int) -> None:
    end = _end_of_data(path, hdus)
    shape = _shape(hdus[FLUX]) if len(hdus) > FLUX else ()
    if shape[-1:] == (4096,):
        raise SpectrumError(f"{path.name} {APVISIT}.")
    if any(map(_is_packed, hdus[FLUX : MASK + 1])):
        raise SpectrumError(f"{path.name} {PACKED_IMAGES}.")
    if size < end or size % BLOCK:
        raise SpectrumError(
            f"{path.name} is incomplete: it has {size} bytes of at least {end}; "
            "it was cut off or is still being written."
        )
    if len(hdus) < _LEAST_HDUS:
        raise SpectrumError(
            f"{path.name} has {len(hdus)} of at least {_LEAST_HDUS} HDUs: it is no apStar file, "
            "or an incomplete one."
        )
    shapes = [_shape(hdus[number]) for number in IMAGES]
    if (misfit := _misfit(shapes)) is not None:
        raise SpectrumError(
            f"{path.name} is no apStar file: HDU {IMAGES[misfit]} has shape {shapes[misfit]}, "
            f"not rows of {N_APSTAR} pixels."
        )


def _misfit(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Which of the images is the first that is not rows of pixels, as many as in the others."""
    first = shapes[0]
    fits_in = first[-1:] == (N_APSTAR,) and len(first) <= 2
    return next((n for n, own in enumerate(shapes) if not fits_in or own != first), None)


def _is_packed(hdu: Any) -> bool:
    return isinstance(hdu, fits.BinTableHDU) and "ZIMAGE" in hdu.header


def _shape(hdu: Any) -> tuple[int, ...]:
    """The shape of an image; a table has none."""
    return tuple(getattr(hdu, "shape", ()))


def _end_of_data(path: Path, hdus: fits.HDUList) -> int:
    """Where the last HDU ends, by the headers.

    The HDUs are read one by one: a damaged header may give one a negative size, after which
    astropy would read the same HDUs for ever.
    """
    end = 0
    for number, hdu in enumerate(hdus):
        if number >= MOST_HDUS:
            raise SpectrumError(f"{path.name} {MANY_HDUS}.")
        info = hdu.fileinfo()
        if info["hdrLoc"] < end or info["datSpan"] < 0:
            raise SpectrumError(f"{path.name} has a damaged header: {ABSURD_SIZES}.")
        end = info["datLoc"] + info["datSpan"]
    return end

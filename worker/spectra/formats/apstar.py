"""Reading apStar files of every era: DR12-16 (IDL), DR17 and SDSS-V.

HDU 0 holds the header, 1 flux, 2 errors, 3 the pixel mask; one row per spectrum. Row 0 is the
coadd, row 1 the globally weighted coadd, row 1+n visit n; a file of one visit has a single
row (1-D in DR12-16), or a second row of zeros in DR17. The HDUs are addressed by number: their
names came late.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from worker.errors import SpectrumError
from worker.identity import COADD
from worker.spectra.formats.apstar_readers import (
    ERROR,
    FLUX,
    IMAGES,
    MASK,
    ApStarReader,
    Header,
    read_with,
)
from worker.spectra.formats.format import Format, SpectrumArrays, StarHeader
from worker.spectra.formats.gzip_stream import MAGIC, GzipStream
from worker.spectra.formats.header_blocks import MANY_HDUS, MOST_HDUS
from worker.spectra.formats.wavelength_grid import other_grid
from worker.spectra.formats.wrong_kinds import LONGEST_START, wrong_kind

_VISITS_FROM_ROW = 2
#: A thousand visits need less; what astropy makes of a longer file takes minutes and gigabytes.
_LARGEST_FILE = 256 << 20
_PIECE = 1 << 20
_SIMPLE = b"SIMPLE  ="
#: What every database holds in an integer.
_LARGEST_INTEGER = 2**31

T = TypeVar("T")


def read_header(path: Path) -> StarHeader:
    """Read what a file holds, and check that it is a whole apStar file.

    Raises
    ------
    SpectrumError
        The file cannot be read, is no apStar file, or is incomplete; the text says which.
    """

    def read(file: ApStarReader) -> StarHeader:
        header, visits = file.header, _visits(path, file)
        numbers = range(1, len(visits) + 1)
        return StarHeader(
            obj=_text(header, "OBJID"),
            ra=_number(header, "RA"),
            dec=_number(header, "DEC"),
            telescope=_text(header, "TELESCOP"),
            field=_text(header, "FIELD"),
            healpix=_integer(header, "HEALPIX"),
            snr=_number(header, "SNR"),
            spectrum_flags=_integer(header, "STARFLAG"),
            visits=visits,
            visit_snr=tuple(_number(header, f"SNRVIS{n}") for n in numbers),
            visit_flags=tuple(_integer(header, f"FLAG{n}") for n in numbers),
            lost=tuple(header.lost),  # all cards that a row needs have been asked for
            of_line_list=header.get("SIMULATE") is True and _text(header, "STARLIKE") is None,
        )

    return _read(path, read)


def read_spectra(
    path: Path, members: Sequence[str], *, coadd_mask: str = "and"
) -> list[SpectrumArrays | SpectrumError]:
    """Read rows of one file, opening it once.

    Parameters
    ----------
    path
        An apStar file, plain or gzipped.
    members
        ``coadd``, or names of apVisit files as the header's SFILEn list them.
    coadd_mask
        Which mask a coadd of DR12-16 gets: ``and`` of its visits (what the network was trained
        on: later releases write that one), or ``or``, which those files keep in row 0.

    Returns
    -------
    list
        For each member its spectrum, or the error that says why there is none.

    Raises
    ------
    SpectrumError
        Nothing in the file can be read; the text says why.
    """

    def read(file: ApStarReader) -> list[SpectrumArrays | SpectrumError]:
        visits = _visits(path, file)
        rows = [_row_of(path, member, visits, file.n_rows) for member in members]
        return [_spectrum(file, row, coadd_mask) if isinstance(row, int) else row for row in rows]

    return _read(path, read)


def _row_of(path: Path, member: str, visits: tuple[str, ...], n_rows: int) -> int | SpectrumError:
    if member == COADD:
        return 0
    if member not in visits:
        return SpectrumError(f"{path.name} does not hold the visit {member}.")
    row = _visit_row(visits.index(member), n_rows)
    if row >= n_rows:
        return SpectrumError(f"{path.name} lists the visit {member} but has no row for it.")
    return row


def _spectrum(file: ApStarReader, row: int, coadd_mask: str) -> SpectrumArrays:
    """A row in native byte order, which astype turns it into."""
    flux, error = (file.row(number, row).astype(np.float64) for number in (FLUX, ERROR))
    mask = file.row(MASK, row)
    # DR12-16 (16-bit masks) keep the OR of the visits in the coadd's row.
    if row == 0 and coadd_mask == "and" and mask.itemsize == 2 and file.n_rows > _VISITS_FROM_ROW:
        mask = reduce(
            np.bitwise_and, (file.row(MASK, n) for n in range(_VISITS_FROM_ROW, file.n_rows))
        )
    return SpectrumArrays(flux, error, mask.astype(np.int32, copy=False))


def _visit_row(index: int, n_rows: int) -> int:
    """The row of the visit with this 0-based number; two coadds come first where there are any."""
    return index + (_VISITS_FROM_ROW if n_rows > _VISITS_FROM_ROW else 0)


def _read(path: Path, read: Callable[[ApStarReader], T]) -> T:
    def read_checked(file: ApStarReader) -> T:
        _check_grid(path, file)
        return read(file)

    source, size = _source(path)
    with source:
        return read_with(read_checked, path, source, size)


def _check_grid(path: Path, file: ApStarReader) -> None:
    """Make sure that the pixels are where the network expects them: it answers all the same."""
    for header in (file.header, *map(file.header_of, IMAGES)):
        if other := other_grid(header):
            raise SpectrumError(
                f"{path.name} has another wavelength grid than apStar files: {other}."
            )


def _source(path: Path) -> tuple[BinaryIO, int]:
    """The open file for astropy, and its size in bytes; a .gz is unpacked in memory."""
    try:
        if path.is_dir():
            raise SpectrumError(f"{path.name} is a directory, not an apStar file.")
        if not path.is_file():
            raise SpectrumError(f"{path.name} does not exist or is no regular file.")
        file = path.open("rb", buffering=0)  # both readers ask for whole blocks
        try:
            return _looked_into(path, file)
        except BaseException:
            file.close()
            raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise SpectrumError(f"{path.name} cannot be read: {reason}.") from error


def _looked_into(path: Path, source: BinaryIO) -> tuple[BinaryIO, int]:
    size, start = _size(path, source), source.read(LONGEST_START)
    if start.startswith(MAGIC):
        with source as packed:
            source = _unpacked(path, packed)
        size, start = _size(path, source), source.read(LONGEST_START)
    source.seek(0)
    if other := wrong_kind(path.name, start):
        raise SpectrumError(f"{path.name} {other}.")
    if not start.startswith(_SIMPLE):
        raise SpectrumError(f"{path.name} {'is not a FITS file' if start else 'is empty'}.")
    return source, size


def _size(path: Path, source: BinaryIO) -> int:
    """The length of a file, at whose start it is then."""
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    if size > _LARGEST_FILE:
        raise SpectrumError(f"{path.name} is larger than 256 MiB; it is no apStar file.")
    return size


def _unpacked(path: Path, packed: BinaryIO) -> BinaryIO:
    """What a .gz holds, or so much of it that it is too large.

    HDUs are counted on the way: a few bytes for each unpack to the largest file that is read.
    """
    content, stream, extensions = io.BytesIO(), GzipStream(packed), 0
    while content.tell() <= _LARGEST_FILE and (piece := stream.read(_PIECE)):
        content.write(piece)
        extensions += piece.count(b"XTENSION= ")
        if extensions >= MOST_HDUS:
            raise SpectrumError(f"{path.name} {MANY_HDUS}.")
    return content


def _visits(path: Path, file: ApStarReader) -> tuple[str, ...]:
    """The names of the visits combined, in row order.

    Where the header does not say how many there are, the rows do; a visit whose SFILEn card
    is missing, cannot be read or names an earlier visit is called ``visit-n``.
    """
    count = _integer(file.header, "NVISITS")
    if "NVISITS" in file.header.lost:  # which row is whose is not to be guessed
        raise SpectrumError(
            f"{path.name} has an NVISITS card that cannot be read; it is damaged or incomplete."
        )
    if count is None:
        count = max(1, file.n_rows - _VISITS_FROM_ROW)
    names: dict[str, None] = {}
    for n in range(1, min(count, file.n_rows) + 1):
        name = _text(file.header, f"SFILE{n}")
        names[f"visit-{n}" if not name or name in names else name] = None
    return tuple(names)


def _text(header: Header, key: str) -> str | None:
    value = header.get(key)
    return None if value is None else str(value).strip()


def _number(header: Header, key: str) -> float | None:
    """A finite number, or None; SDSS-V writes non-finite ones as the text 'NaN'."""
    try:
        value = float(header.get(key))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _integer(header: Header, key: str) -> int | None:
    return storable_integer(_number(header, key))


def storable_integer(value: float | None) -> int | None:
    """A number as an integer that every database takes, or None."""
    return int(value) if value is not None and abs(value) < _LARGEST_INTEGER else None


#: It takes every file: what is no apStar file, it refuses with the reason.
APSTAR = Format("apStar", lambda _: True, read_header, read_spectra)

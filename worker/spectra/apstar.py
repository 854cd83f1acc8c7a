"""Reading apStar files of every era: DR12-16 (IDL), DR17 and SDSS-V.

HDU 0 holds the header, 1 flux, 2 errors, 3 the pixel mask; one row per spectrum. Row 0 is the
coadd, row 1 the globally weighted coadd, row 1+n visit n; a file of one visit has a single
row (1-D in DR12-16), or a second row of zeros in DR17. The HDUs are addressed by number: their
names came late.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from worker.errors import SpectrumError
from worker.messages import COADD
from worker.spectra.pixels import N_APSTAR

_FLUX, _ERROR, _MASK = 1, 2, 3
_LEAST_HDUS = 10
_VISITS_FROM_ROW = 2
_BLOCK = 2880
#: A thousand visits need less; what astropy makes of a longer file takes minutes and gigabytes.
_LARGEST_FILE = 256 << 20
#: What every database holds in an integer.
_LARGEST_INTEGER = 2**31
#: What astropy raises on damaged files, as found by feeding it such files.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, fits.VerifyError)


@dataclass(frozen=True)
class Spectrum:
    """One row of an apStar file, in native byte order.

    ``flux`` and ``error`` are float64, ``mask`` int32, each ``(8575,)``. Flux and error are in
    1e-17 erg/s/cm2/Angstrom.
    """

    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    mask: NDArray[np.int32]


@dataclass(frozen=True)
class ApStarFile:
    """What the primary header of an apStar file says about its star and its visits.

    ``visits`` are the names of the apVisit files combined, in row order.
    """

    obj: str | None
    ra: float | None
    dec: float | None
    telescope: str | None
    field: str | None
    healpix: int | None
    snr: float | None
    spectrum_flags: int | None
    visits: tuple[str, ...]
    visit_snr: tuple[float | None, ...]
    visit_flags: tuple[int | None, ...]


def read_header(path: Path) -> ApStarFile:
    """Read what a file holds, and check that it is a whole apStar file.

    Raises
    ------
    SpectrumError
        The file cannot be read, is no apStar file, or is incomplete; the text says which.
    """
    with _open(path) as hdus:
        header = hdus[0].header
        visits = _visits(hdus)
        numbers = range(1, len(visits) + 1)
        return ApStarFile(
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
        )


def read_spectra(
    path: Path, members: Sequence[str], *, coadd_mask: str = "and"
) -> list[Spectrum | SpectrumError]:
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
    with _open(path) as hdus:
        flux, error, mask = (np.atleast_2d(_data(path, hdus, n)) for n in (_FLUX, _ERROR, _MASK))
        visits = _visits(hdus)

        def read(member: str) -> Spectrum | SpectrumError:
            if member == COADD:
                pixel_mask = _coadd_mask(mask, coadd_mask)
                return _spectrum(flux[0], error[0], pixel_mask)
            if member not in visits:
                return SpectrumError(f"{path.name} does not hold the visit {member}.")
            row = _visit_row(visits.index(member), len(flux))
            if row >= len(flux):
                return SpectrumError(f"{path.name} lists the visit {member} but has no row for it.")
            return _spectrum(flux[row], error[row], mask[row])

        return [read(member) for member in members]


def _visit_row(index: int, n_rows: int) -> int:
    """The row of the visit with this 0-based number; two coadds come first where there are any."""
    return index + (_VISITS_FROM_ROW if n_rows > _VISITS_FROM_ROW else 0)


def _coadd_mask(mask: NDArray[Any], kind: str) -> NDArray[Any]:
    """The coadd's mask. DR12-16 files (16-bit masks) keep the visits' OR in row 0."""
    has_or_mask = mask.dtype.itemsize == 2 and len(mask) > _VISITS_FROM_ROW
    if kind == "and" and has_or_mask:
        return np.asarray(np.bitwise_and.reduce(mask[_VISITS_FROM_ROW:], axis=0))
    return np.asarray(mask[0])


def _spectrum(flux: NDArray[Any], error: NDArray[Any], mask: NDArray[Any]) -> Spectrum:
    # astype also turns the files' big-endian numbers into native ones.
    return Spectrum(
        flux.astype(np.float64), error.astype(np.float64), mask.astype(np.int32, copy=False)
    )


@contextmanager
def _open(path: Path) -> Iterator[fits.HDUList]:
    """Open a file and make sure that it is a whole apStar file.

    A file that is still being written, or was cut off, opens without complaint and reads as
    fewer HDUs or as zeros; hence the checks.
    """
    with warnings.catch_warnings():
        # astropy warns about what is checked here, and about harmless header cards.
        warnings.simplefilter("ignore")
        source, size = _source(path)
        try:
            # An image that is packed in a table may unpack to any size; apStar files have none.
            options = {"memmap": False, "disable_image_compression": True}
            with source, fits.open(source, **options) as hdus:
                _check(path, hdus, size)
                yield hdus
        except SpectrumError:
            raise
        except _DAMAGE as error:
            raise SpectrumError(
                f"{path.name} cannot be read as FITS ({error}); it is damaged or incomplete."
            ) from error


def _source(path: Path) -> tuple[BinaryIO, int]:
    """The open file for astropy, and its size in bytes; a .gz is unpacked in memory."""
    try:
        if path.is_dir():
            raise SpectrumError(f"{path.name} is a directory, not an apStar file.")
        if not path.is_file():
            raise SpectrumError(f"{path.name} does not exist or is no regular file.")
        file = path.open("rb")
        try:
            return _looked_into(path, file)
        except BaseException:
            file.close()
            raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise SpectrumError(f"{path.name} cannot be read: {reason}.") from error


def _looked_into(path: Path, source: BinaryIO) -> tuple[BinaryIO, int]:
    start = source.read(10)
    if start[:2] == b"\x1f\x8b":
        with source as packed:
            source = io.BytesIO(_unpack(packed))
        start = source.read(10)
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    if size > _LARGEST_FILE:
        raise SpectrumError(f"{path.name} is larger than 256 MiB; it is no apStar file.")
    if not start.startswith(b"SIMPLE  ="):
        raise SpectrumError(f"{path.name} {'is not a FITS file' if start else 'is empty'}.")
    return source, size


def _unpack(packed: BinaryIO) -> bytes:
    """What a .gz holds, or so much of it that it is too large."""
    packed.seek(0)
    with gzip.open(packed) as file:
        return file.read(_LARGEST_FILE + 1)


def _check(path: Path, hdus: fits.HDUList, size: int) -> None:
    end = _end_of_data(path, hdus)
    shape = _shape(hdus[_FLUX]) if len(hdus) > _FLUX else ()
    if shape[-1:] == (4096,):
        raise SpectrumError(
            f"{path.name} is an apVisit file; the network reads apStar files, which hold the "
            "same visit resampled to the rest frame."
        )
    if size < end or size % _BLOCK:
        raise SpectrumError(
            f"{path.name} is incomplete: it has {size} bytes of at least {end}; "
            "it was cut off or is still being written."
        )
    if len(hdus) < _LEAST_HDUS:
        raise SpectrumError(
            f"{path.name} has {len(hdus)} of at least {_LEAST_HDUS} HDUs: it is no apStar file, "
            "or an incomplete one."
        )
    for number in (_FLUX, _ERROR, _MASK):
        own = _shape(hdus[number])
        if own != shape or shape[-1:] != (N_APSTAR,) or len(shape) > 2:
            raise SpectrumError(
                f"{path.name} is no apStar file: HDU {number} has shape {own}, "
                f"not rows of {N_APSTAR} pixels."
            )


def _shape(hdu: Any) -> tuple[int, ...]:
    """The shape of an image; a table has none."""
    return tuple(getattr(hdu, "shape", ()))


def _end_of_data(path: Path, hdus: fits.HDUList) -> int:
    """Where the last HDU ends, by the headers.

    The HDUs are read one by one: a damaged header may give one a negative size, after which
    astropy would read the same HDUs for ever.
    """
    end = 0
    for hdu in hdus:
        info = hdu.fileinfo()
        if info["hdrLoc"] < end or info["datSpan"] < 0:
            raise SpectrumError(f"{path.name} has a damaged header: HDU sizes make no sense.")
        end = info["datLoc"] + info["datSpan"]
    return end


def _data(path: Path, hdus: fits.HDUList, number: int) -> NDArray[Any]:
    data = hdus[number].data
    if data is None:
        raise SpectrumError(f"{path.name} has no data in HDU {number}.")
    return np.asarray(data)


def _visits(hdus: fits.HDUList) -> tuple[str, ...]:
    """The names of the visits combined, in row order.

    Where the header does not say how many there are, the rows do; a visit whose SFILEn card
    is missing or names an earlier visit is called ``visit-n``.
    """
    header, shape = hdus[0].header, hdus[_FLUX].shape
    rows = shape[0] if len(shape) > 1 else 1
    count = _integer(header, "NVISITS")
    if count is None:
        count = max(1, rows - _VISITS_FROM_ROW)
    names: dict[str, None] = {}
    for n in range(1, min(count, rows) + 1):
        name = _text(header, f"SFILE{n}")
        names[f"visit-{n}" if not name or name in names else name] = None
    return tuple(names)


def _text(header: fits.Header, key: str) -> str | None:
    value = header.get(key)
    return None if value is None or isinstance(value, fits.card.Undefined) else str(value).strip()


def _number(header: fits.Header, key: str) -> float | None:
    """A finite number, or None; SDSS-V writes non-finite ones as the text 'NaN'."""
    try:
        value = float(header.get(key))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _integer(header: fits.Header, key: str) -> int | None:
    value = _number(header, key)
    return int(value) if value is not None and abs(value) < _LARGEST_INTEGER else None


def file_version(path: Path) -> str:
    """Size and modification time: what changes when a reduction rewrites a file."""
    try:
        status = path.stat()
    except OSError:
        return "absent"
    return f"{status.st_size}-{status.st_mtime_ns}"

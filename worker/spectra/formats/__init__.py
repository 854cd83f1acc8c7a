"""The formats of files that hold spectra: each is a file here and a line in ``FORMATS``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worker.errors import SpectrumError
from worker.spectra.formats.apstar import APSTAR
from worker.spectra.formats.format import Format, SpectrumArrays, StarHeader, refusing

#: The first that recognises a file reads it. The last one takes every file, and says what is
#: wrong with one that has no format of these.
FORMATS: tuple[Format, ...] = (APSTAR,)


def format_of(path: Path) -> Format:
    """The format of a file."""
    return next(each for each in FORMATS if each.recognises(path))


def read_header(path: Path) -> StarHeader:
    """Read what a file holds, and check that it is whole.

    Raises
    ------
    SpectrumError
        The file cannot be read, has none of the formats, or is incomplete; the text says which.
    """
    with refusing(str(path)):
        return format_of(path).read_header(path)


def read_spectra(
    path: Path, members: Sequence[str], *, coadd_mask: str = "and"
) -> list[SpectrumArrays | SpectrumError]:
    """Read spectra of one file, opening it once.

    Parameters
    ----------
    members
        ``coadd``, or names of visits as :func:`read_header` lists them.
    coadd_mask
        See :func:`worker.spectra.formats.apstar.read_spectra`.

    Returns
    -------
    list
        For each member its spectrum, or the error that says why there is none.

    Raises
    ------
    SpectrumError
        Nothing in the file can be read; the text says why.
    """
    return format_of(path).read_spectra(path, members, coadd_mask=coadd_mask)

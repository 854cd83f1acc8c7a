"""What a format of files offers, and what it makes of a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.errors import SpectrumError, StreamError
from worker.text import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpectrumArrays:
    """One spectrum of a file, in native byte order.

    ``flux`` and ``error`` are float64, ``mask`` int32, each ``(8575,)``. Flux and error are in
    1e-17 erg/s/cm2/Angstrom; the mask has the bits of APOGEE_PIXMASK.
    """

    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    mask: NDArray[np.int32]


@dataclass(frozen=True)
class StarHeader:
    """What a file says about its star and its visits.

    ``visits`` are the names of the apVisit files combined, in the order of their spectra;
    ``lost`` the cards that are there but cannot be read, so that their values are None.
    ``of_line_list`` says that the star was simulated from the simulator's own lines, on no model
    of real stars.
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
    lost: tuple[str, ...] = ()
    of_line_list: bool = False


class ReadSpectra(Protocol):
    """Reads members of a file, opening it once."""

    def __call__(
        self, path: Path, members: Sequence[str], *, coadd_mask: str = "and"
    ) -> list[SpectrumArrays | SpectrumError]:
        """For each member its spectrum, or the error that says why there is none."""


@dataclass(frozen=True)
class Format:
    """A format of files that hold spectra of one star.

    Attributes
    ----------
    name
        What it is called.
    recognises
        Whether a file has this format, as far as its name or its first bytes tell.
    read_header
        What the file holds; raises ``SpectrumError`` where it cannot be used.
    read_spectra
        Its spectra; raises ``SpectrumError`` where nothing in it can be read.
    """

    name: str
    recognises: Callable[[Path], bool]
    read_header: Callable[[Path], StarHeader]
    read_spectra: ReadSpectra


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Let a file be refused for whatever its reading raises.

    Damage is raised as anything by what meets it first. What is no fault of the file passes:
    errors that are meant, and a lack of memory.

    Raises
    ------
    SpectrumError
        Instead of an error that nobody foresaw, which is logged.
    """
    try:
        yield
    except (StreamError, MemoryError):
        raise
    except Exception as error:
        logger.exception("action=load file=%s: unexpected error", printable(path))
        name = path.rpartition("/")[2]
        raise SpectrumError(f"{name} cannot be read ({error!r}).") from error

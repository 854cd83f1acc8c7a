"""What spectra and weights are called: members of files, natural and mask keys, hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from worker.errors import FatalError

#: The member of a file that is the coadd; a visit's is the name of its apVisit file.
COADD = "coadd"


class Located(Protocol):
    """Whatever lies as a member in a file: a message's spectrum, a row of the catalogue."""

    @property
    def path(self) -> str:
        """The file, relative to the data root."""

    @property
    def member(self) -> str:
        """``coadd``, or the name of the visit's apVisit file."""


@dataclass(frozen=True)
class Place:
    """Where a spectrum lies, and nothing else of it."""

    path: str
    member: str

    @property
    def natural_key(self) -> str:
        """See :func:`natural_key`."""
        return natural_key(self.path, self.member)


def natural_key(path: str, member: str) -> str:
    """The name of a spectrum that does not depend on where its file lies.

    By it messages and database agree on which spectrum they mean.

    Parameters
    ----------
    path
        The apStar file; only its name without ``.fits`` or ``.fits.gz`` counts.
    member
        ``coadd``, or the name of the visit's apVisit file.

    Returns
    -------
    str
        For example ``apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131``.
    """
    return f"{stem(path)}/{stem(member)}"


def mask_key(
    path: str,
    member: str,
    obj: str | None = None,
    plate: str | None = None,
    mjd: int | None = None,
    fiber: int | None = None,
) -> str:
    """What seeds a spectrum's dropout masks: what was observed, not how its file is called.

    So the same coadd or visit has the same masks under any name of its file and in any reduction.

    Parameters
    ----------
    path, member
        As for :func:`natural_key`.
    obj, plate, mjd, fiber
        Star and exposure, as the columns of these names in a table of results have them; what is
        not known may be None, empty or masked.

    Returns
    -------
    str
        For example ``2M00452143+1634446/6561-56587-131``, or ``2M00452143+1634446/coadd``. Where
        the star, or the exposure of a visit, is not known: the natural key.
    """
    if obj and member == COADD:
        return f"{obj}/{COADD}"
    if obj and plate and mjd and fiber:
        return f"{obj}/{plate}-{int(mjd)}-{int(fiber)}"
    return natural_key(path, member)


def stem(name: str) -> str:
    """The name of a FITS file without its folder and endings."""
    return name.rpartition("/")[2].removesuffix(".gz").removesuffix(".fits")


@lru_cache(maxsize=8)
def weights_sha256(path: Path) -> str:
    """The SHA-256 of a weights file, which names its weights in every row; needs no torch.

    Raises
    ------
    FatalError
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FatalError(f"The weights {path} cannot be read: {error.strerror}.") from error

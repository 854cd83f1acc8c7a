"""What spectra and weights are called: members of files, natural keys, hashes."""

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

    It keys the dropout masks, so a copied or moved file gives the same labels.

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

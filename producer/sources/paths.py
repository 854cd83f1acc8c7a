"""Paths of star files: which are taken, and where they lie below the data root."""

from __future__ import annotations

import re
from pathlib import Path

from worker.errors import UsageError
from worker.file_names import name_as_text
from worker.identity import stem

_ENDINGS = (".fits", ".fits.gz")

#: Folders that the reduction pipeline fills with pictures and pages.
_NOT_SPECTRA = {"plots", "html"}

_TELESCOPES = ("apo25m", "lco25m", "apo1m")

_STAR_NAME = re.compile(
    rf"(?:ap|as)Star(?:-1m)?-(?P<apred>[^-]+)-(?:(?P<telescope>{'|'.join(_TELESCOPES)})-)?"
    r"(?P<obj>.+?)(?:-(?P<starver>\d{5}))?"
)


def is_taken(name: str) -> bool:
    """Whether a folder gives a file of this name; hidden and temporary ones it does not."""
    return name.endswith(_ENDINGS) and not name.startswith(".")


def is_entered(name: str) -> bool:
    """Whether a folder of this name is looked into; one that is called like a file is not."""
    return not name.startswith(".") and not name.endswith(_ENDINGS) and name not in _NOT_SPECTRA


def is_star_name(name: str) -> bool:
    """Whether a file's name is that of an apStar file, of any era."""
    return is_taken(name) and _STAR_NAME.fullmatch(stem(name)) is not None


def place_of(file: Path, root: Path) -> Path:
    """The file behind symbolic links; a link that leads out of the root stands for itself.

    It ends as a row that says so.
    """
    resolved = _resolved(file)
    if not resolved.is_relative_to(root) and file.absolute().is_relative_to(root):
        return file.absolute()
    return resolved


def check_inside(given: Path, place: Path, root: Path) -> None:
    """Make sure that what was given lies below the data root.

    Raises
    ------
    UsageError
        It does not.
    """
    if not place.is_relative_to(root):
        raise UsageError(
            f"{given} lies outside the data root {root}; set ASTRONN_STREAM_DATA_ROOT."
        )


def catalogue_path(file: Path, root: Path) -> str:
    """What the catalogue calls a file: its path below the data root, as databases take it."""
    return name_as_text(str(file.relative_to(root)))


def _resolved(file: Path) -> Path:
    """The file behind symbolic links; a loop of links stands for itself, and fails as a file."""
    try:
        return file.resolve()
    except (OSError, RuntimeError):
        return file.absolute()

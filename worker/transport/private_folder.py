"""Folders that only their user may enter."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from worker.errors import FatalError


def make_private(directory: Path) -> None:
    """Make a directory that only this user can enter.

    Raises
    ------
    FatalError
        It exists and belongs to someone else, or others may enter it.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise FatalError(f"{directory} cannot be made: {error.strerror}.") from error
    check_private(directory)


def check_private(directory: Path) -> None:
    """Make sure that a directory is one that only this user can enter.

    Raises
    ------
    FatalError
        It belongs to someone else, or others may enter it.
    """
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise FatalError(f"{directory} is not a private directory of this user; remove it.")

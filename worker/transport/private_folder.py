"""Folders that only their user may enter."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from worker.errors import FatalError
from worker.settings import is_stack_directory


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


def check_socket(socket: Path) -> None:
    """Make sure that a socket in the folder of a local stack is none that others put there.

    Sockets elsewhere were named by the user, and belong to whoever runs that server.

    Raises
    ------
    FatalError
        The folder belongs to someone else, or others may enter it.
    """
    if is_stack_directory(socket.parent) and os.path.lexists(socket.parent):
        check_private(socket.parent)

"""Files that are replaced in one step: a reader finds the old or the new one, never a part.

Whether they can be written is asked before the work whose outcome they are to hold.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import FatalError, UsageError


def check_place(path: Path) -> None:
    """Make sure that a file can be written here.

    Raises
    ------
    UsageError
        It is a folder, or its folder is not there or cannot be written.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{path} cannot be written: it is a folder, or its folder is missing or read-only."
        )


def check_folder(folder: Path) -> None:
    """Make sure that files can be written in a folder, which is made when they are.

    Raises
    ------
    UsageError
        It cannot be made, or cannot be written.
    """
    above = folder.absolute()
    there = next(each for each in (above, *above.parents) if os.path.lexists(each))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be made or written: {there} is no folder or read-only.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file in a folder of its own beside ``path``, whose place it takes when it is complete.

    Raises
    ------
    FatalError
        It cannot be written; what was at ``path`` is still there.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix=".astronn-stream-", dir=path.absolute().parent
        ) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise FatalError(f"{path} cannot be written: {error.strerror or error}.") from error

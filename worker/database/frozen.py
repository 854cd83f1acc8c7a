"""SQLite databases beside which nothing can be written, such as a finished survey's.

Whoever opens a database in WAL mode makes a ``-wal`` and a ``-shm`` beside it, or takes those of
the writer that has it open. Where neither can be, the file is all there is, and is read as one
that nobody changes (SQLite's ``immutable``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from worker.errors import FatalError


def is_frozen(file: Path) -> bool:
    """Whether all rows are in the file itself, and nothing can be written beside it.

    Raises
    ------
    FatalError
        The latest rows are in its ``-wal``, which cannot be read there.
    """
    file = file.resolve()
    if os.access(file.parent, os.W_OK):
        return False
    wal, shared = (file.with_name(file.name + ending) for ending in ("-wal", "-shm"))
    if wal.exists() and shared.exists():
        return False
    if wal.exists() and wal.stat().st_size:
        raise FatalError(
            f"The latest rows of the database are in {wal}, which can only be read where its "
            "folder can be written; copy both files to such a folder."
        )
    return True


def frozen_url(file: Path) -> URL:
    """The URL that opens such a file."""
    options = {"mode": "ro", "immutable": "1", "uri": "true"}
    return URL.create("sqlite", database=file.resolve().as_uri(), query=options)


@contextmanager
def staying_frozen(file: Path) -> Iterator[None]:
    """Make sure that nobody else writes such a file while it is read, which no lock prevents.

    Raises
    ------
    FatalError
        Somebody did; what was read may be of both states.
    """
    before = _state(file)
    yield
    if _state(file) != before:
        raise FatalError("The database was written while it was read; run the command again.")


def _state(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns

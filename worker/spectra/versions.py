"""Versions of files: what tells that a file was rewritten."""

from __future__ import annotations

from pathlib import Path

#: The version of a file that is not there.
ABSENT = "absent"


def file_version(path: Path) -> str:
    """Size and modification time: what changes when a reduction rewrites a file."""
    try:
        status = path.stat()
    except OSError:
        return ABSENT
    return f"{status.st_size}-{status.st_mtime_ns}"

"""Files that are replaced in one step: a reader finds the old or the new one, never a part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import FatalError


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

"""The SHA-256 of a file of weights, by which rows, jobs and messages name it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from worker.errors import FatalError


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

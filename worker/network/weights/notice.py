"""What is said to whoever uses weights that come with the package."""

from __future__ import annotations

from worker.network.checkpoint import read_not_learnt
from worker.starter.bundled import bundled_with


def notice_of(sha256: str) -> str | None:
    """What weights with this SHA-256 are good for, in one line; None for weights of one's own.

    Raises
    ------
    FatalError
        Their file cannot be read.
    """
    bundled = bundled_with(sha256)
    if bundled is None:
        return None
    return bundled.notice(len(read_not_learnt(bundled.weights)))

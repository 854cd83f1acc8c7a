"""The version of the software, as rows, tables and workers bear it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from worker.commit import PACKAGES, clean_commit

#: The release.
__version__ = version("astronn-stream")

_ROOT = Path(__file__).parents[1]
#: Where hatch_build.py leaves the commit that a package was made of.
_COMMIT_FILE = Path(__file__).parent / "commit.txt"


@lru_cache(maxsize=1)
def software_version() -> str:
    """The release and the commit, as ``0.1.0+g8b33841a18c8``.

    Labels may differ between two commits of one release. Code that is no commit's bears its own
    hash, as ``0.1.0+cddceda81c69f``: two processes say the same only if their code is the same.
    """
    commit = _commit()[:12]
    return f"{__version__}+{'g' + commit if commit else 'c' + _code()}"


def _commit() -> str:
    if _COMMIT_FILE.is_file():
        return _COMMIT_FILE.read_text().strip()
    return clean_commit(_ROOT)


def _code() -> str:
    code = hashlib.blake2b(digest_size=6)
    for package in PACKAGES:
        for file in sorted((_ROOT / package).rglob("*.py")):
            code.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    return code.hexdigest()

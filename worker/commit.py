"""The commit of a clone, for the build and for processes that run from one."""

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGES = ("producer", "worker")


def clean_commit(root: Path) -> str:
    """The commit that a clone's code is; empty where it was changed, or git does not tell.

    A repository of a folder above is another one. Git refuses one of another user.
    """
    if not (root / ".git").exists():
        return ""
    try:
        changed = _git(root, "status", "--porcelain", "--", *PACKAGES)
        return "" if changed else _git(root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own words

"""What a build adds to the packages: the commit that it was made of, for ``worker.version``."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Writes the commit; a build of code that is no commit's has none.

    Where there is no repository, as in a container, ASTRONN_STREAM_COMMIT tells it.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it packs."""
        root = Path(self.root)
        clean_commit = runpy.run_path(str(root / "worker/commit.py"))["clean_commit"]
        commit = os.environ.get("ASTRONN_STREAM_COMMIT") or clean_commit(root)
        if commit and version != "editable":
            file = Path(mkdtemp()) / "commit.txt"
            file.write_text(commit + "\n")
            build_data["force_include"][str(file)] = "worker/commit.txt"

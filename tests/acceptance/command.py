"""The command ``astronn-stream`` as a user runs it: a process in a folder of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from astropy.table import Table

from benchmarks.rig.rows import CHANGING

EXECUTABLE = Path(sys.executable).parent / "astronn-stream"
SECONDS = 240
DONE = "SELECT count(*) FROM job WHERE state = 'done'"
_MARK = "ASTRONN_TEST_WORKPLACE"


@dataclass
class Workplace:
    """A folder to run the command in, and a folder for its temporary files."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        # Its path is short, for sockets are to lie in it.
        self.temporary = Path(tempfile.mkdtemp(prefix="at-"))
        atexit.register(shutil.rmtree, self.temporary, ignore_errors=True)

    def start(self, *arguments: object, log: Path | None = None) -> subprocess.Popen[str]:
        """Start the command; its output is kept, or goes to a log."""
        with contextlib.ExitStack() as files:
            output = subprocess.PIPE if log is None else files.enter_context(log.open("w"))
            return subprocess.Popen(
                [str(EXECUTABLE), *map(str, arguments)],
                cwd=self.folder,
                env=self.full_environment(),
                stdout=output,
                stderr=output,
                text=True,
            )

    def full_environment(self) -> dict[str, str]:
        """The environment of whatever is started here."""
        own = {_MARK: str(self.folder), "TMPDIR": str(self.temporary)}
        return {**os.environ, **self.environment, **own}

    def run(self, *arguments: object, status: int = 0) -> str:
        """Run the command to its end; returns what it printed, checked for its exit status."""
        process = self.start(*arguments)
        return self.finish(process, status)

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """Wait for a command; returns its output and errors together."""
        try:
            output, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert process.returncode == status, f"status {process.returncode}\n{output}\n{errors}"
        return (output or "") + (errors or "")

    def stop(self, process: subprocess.Popen[str], number: signal.Signals, status: int) -> str:
        """Send a signal and wait for the end."""
        process.send_signal(number)
        return self.finish(process, status)

    def processes(self) -> list[psutil.Process]:
        """All that was started here and still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == str(self.folder):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def workers(self, stage: str) -> list[psutil.Process]:
        """The main process of the worker of a stage."""
        wanted = ["worker", stage]
        own = [p for p in self.processes() if p.cmdline()[-2:] == wanted]
        return [p for p in own if p.parent() not in own]

    def left_behind(self) -> list[str]:
        """Files and processes that should not be there once the command is done."""
        files = [path.name for path in self.temporary.iterdir()]
        return files + [" ".join(process.cmdline()) for process in self.processes()]

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def count(self, query: str) -> int:
        """A number out of the SQLite database; 0 while there is none."""
        path = self.folder / "astronn-stream.sqlite"
        if not path.exists():
            return 0
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = "SELECT count(*) FROM sqlite_master WHERE name = 'astronn'"
            (there,) = database.execute(tables).fetchone()
            return int(database.execute(query).fetchone()[0]) if there else 0

    def table(self, name: str = "labels.fits") -> Table:
        return Table.read(self.folder / name)


def assert_same_rows(one: Table, other: Table, *, besides: Collection[str] = ()) -> None:
    """Equal to the last bit, but for times and the columns named."""
    assert one.colnames == other.colnames
    for name in set(one.colnames) - CHANGING - set(besides):
        left, right = (np.ma.filled(table[name]) for table in (one, other))
        assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f"), name

"""Rows of a disturbed stream beside those of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from astropy.table import Table

from worker.database.session import open_database
from worker.results.read import read_table

#: What differs from run to run by its nature.
CHANGING = {"created", "modified", "t_elapsed", "t_overhead"}
#: Numbers of another database, and the name under which the results were made.
_OF_THE_DATABASE = {"task_pk", "spectrum_pk", "source_pk", "tag"}


def undisturbed(files: Path, folder: Path, environment: dict[str, str]) -> Table:
    """The rows of a serial run, in the order of their files."""
    folder.mkdir(parents=True)
    command = [Path(sys.executable).parent / "astronn-stream", "run", files, "--serial"]
    subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment, "ASTRONN_STREAM_DATA_ROOT": str(files)},
        cwd=folder,
        capture_output=True,
        check=True,
    )
    engine = open_database(f"sqlite:///{folder / 'astronn-stream.sqlite'}")
    try:
        return sorted_rows(read_table(engine))
    finally:
        engine.dispose()


def sorted_rows(table: Table) -> Table:
    """In the order of files and members, in place."""
    table.sort(["path", "member"])
    return table


def assert_undisturbed(table: Table, reference: Table) -> None:
    """One row for each job, equal to those of an undisturbed run to the last bit."""
    assert len(table) == len(reference), f"{len(table)} rows, not {len(reference)}"
    for name in set(reference.colnames) - CHANGING - _OF_THE_DATABASE:
        left, right = (np.ma.filled(each[name]) for each in (table, reference))
        same = np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        assert same, f"{name} differs: {[*table['no_result_reason'][left != right][:3]]}"

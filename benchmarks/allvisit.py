"""An allVisit of millions of rows through `enqueue --summary`: rows a second, and peak memory.

The table is simulated, night by night, in the layout of SDSS-V and as wide as the real one; the
star files do not exist, so that looking for them costs what it costs. Without `--register` the
table is read and no job is opened.

    nice uv run --group dev -m benchmarks.allvisit [--rows 3500000] [--register]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import deque
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from astropy.io import fits

from producer import enqueue
from producer.progress import no_bar
from producer.sources.summary_table import SummaryTable
from worker.settings import Settings

VISITS = 3.2
ROWS_AT_ONCE = 100_000
ROW = np.dtype(
    [
        ("apogee_id", "S18"),
        ("file", "S48"),
        ("uri", "S120"),
        ("telescope", "S6"),
        ("field", "S16"),
        ("plate", "S8"),
        ("mjd", ">i4"),
        ("fiberid", ">i2"),
        ("ra", ">f8"),
        ("dec", ">f8"),
        ("snr", ">f4"),
        ("starflag", ">i8"),
        ("starver", "S6"),
        ("targflags", "S132"),
        ("other", ">f4", (80,)),
    ]
)


def write_table(path: Path, rows: int) -> None:
    """Write a table of visits in the order of nights, a part at a time."""
    empty = fits.BinTableHDU(np.empty(0, ROW))
    empty.header["NAXIS2"] = rows
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        fits.PrimaryHDU().writeto(file)
        file.write(empty.header.tostring().encode())
        for first in range(0, rows, ROWS_AT_ONCE):
            part = np.zeros(min(ROWS_AT_ONCE, rows - first), ROW)
            stars = rng.integers(0, int(rows / VISITS), len(part))
            part["apogee_id"] = [
                f"2M{n // 36000 % 24:02d}{n % 36000 // 600:02d}{n % 6000:04d}+{n % 90:02d}30000"
                for n in stars
            ]
            part["file"] = [
                f"apVisit-1.3-apo25m-{n // 300}-59560-{n % 300:03d}.fits"
                for n in range(first, first + len(part))
            ]
            part["telescope"], part["field"], part["plate"] = "apo25m", "field", "3238"
            part["mjd"], part["fiberid"], part["snr"] = 59560, 124, 80.0
            file.write(part.tobytes())
        file.write(bytes(-rows * ROW.itemsize % 2880))


def read(folder: Path, table: Path, register: bool) -> None:
    """Print what reading or registering the table takes, of time and of memory."""
    started = time.perf_counter()
    if register:
        settings = Settings(database_url=f"sqlite:///{folder}/survey.sqlite", data_root=folder)
        found = enqueue(summary=table, settings=settings, lane="bulk").spectra
    else:
        summary = SummaryTable(table, folder, folder)
        with no_bar("", len(summary)) as finished:
            deque(summary.entries(None, finished), maxlen=0)
        found = len(summary)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{found} visits in {seconds:.0f} s, {found / seconds:.0f}/s, at most {peak:.0f} MiB")


def main() -> None:
    """Write the table, and read it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--register", action="store_true", help="in a SQLite database")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "1.3" / "stars").mkdir(parents=True)
        write_table(folder / "allVisit.fits", arguments.rows)
        size = (folder / "allVisit.fits").stat().st_size / 2**20
        print(f"{arguments.rows} rows, {size:.0f} MiB")
        process = get_context("spawn").Process(
            target=read, args=(folder, folder / "allVisit.fits", arguments.register)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()

"""Tables of a million simulated results in each format, and a recalibration: time and memory.

Each is the real command in a process of its own. Before them the plain way, all rows in a table
of astropy's and its `write`, of some of the rows: it is what the ratios compare with, row by row.

    nice uv run --group dev -m benchmarks.tables [--rows 1000000] [--plain 20000] [--postgresql]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from sqlalchemy import Engine, insert, select

from benchmarks.rig.servers import PostgresServer, SqliteFile, short_folder
from worker.database.session import open_database, upgrade
from worker.database.tables import (
    AstroNN,
    Base,
    Job,
    JobState,
    Kind,
    Source,
    Spectrum,
    label_columns,
)
from worker.identity import COADD, natural_key
from worker.labels import LABEL_NAMES
from worker.results.read import table_columns

EXECUTABLE = Path(sys.executable).parent / "astronn-stream"
#: Spectra of a star: its coadd and three visits.
OF_STAR = 4
AT_ONCE = 5000
MOMENT = datetime(2026, 11, 23, 4, 5, 6, 789000, tzinfo=UTC)
#: The endings of the formats, with the names by which astropy writes them.
FORMATS = {
    ".fits": "fits",
    ".parquet": "parquet",
    ".csv": "csv",
    ".ecsv": "ascii.ecsv",
    ".vot": "votable",
}


def fill(engine: Engine, rows: int) -> None:
    """Put so many simulated results into a database."""
    rng = np.random.default_rng(0)
    columns = label_columns()
    for first in range(0, rows, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, rows))
        labels = np.abs(rng.normal(size=(len(numbers), len(columns))))
        with engine.execution_options(writes=True).begin() as connection:
            for model, content in (
                (Source, [source(number) for number in numbers if number % OF_STAR == 0]),
                (Spectrum, [spectrum(number) for number in numbers]),
                (Job, [job(number) for number in numbers]),
                (
                    AstroNN,
                    [
                        result(number) | dict(zip(columns, of_one, strict=True))
                        for number, of_one in zip(numbers, labels.tolist(), strict=True)
                    ],
                ),
            ):
                connection.execute(insert(table_of(model)), content)


def table_of(model: type[Base]) -> Any:
    """The table of a model, into which rows go without the ORM."""
    return model.__table__


def name_of(number: int) -> str:
    """The star of a spectrum."""
    return f"2M{number // OF_STAR:08d}+0000000"


def source(number: int) -> dict[str, Any]:
    """The row of a star."""
    return {"pk": number // OF_STAR + 1, "obj": name_of(number), "ra": number % 360, "dec": 0.5}


def spectrum(number: int) -> dict[str, Any]:
    """The catalogue row of a spectrum."""
    is_coadd = number % OF_STAR == 0
    path = f"dr17/stars/apo25m/120+12/apStar-dr17-{name_of(number)}.fits"
    member = COADD if is_coadd else f"apVisit-dr17-6561-{56587 + number % OF_STAR}-024.fits"
    return {
        "pk": number + 1,
        "source_pk": number // OF_STAR + 1,
        "kind": Kind.COADD if is_coadd else Kind.VISIT,
        "path": path,
        "member": member,
        "natural_key": natural_key(path, member),
        "file_version": "4321000-1700000000000000000",
        "release": "dr17",
        "apred": "dr17",
        "telescope": "apo25m",
        "field": "120+12",
        "obj": name_of(number),
        "mjd": None if is_coadd else 56587 + number % OF_STAR,
        "fiber": None if is_coadd else 24,
        "snr": 20.0 + number % 200,
        "spectrum_flags": 0,
        "created": MOMENT,
        "modified": MOMENT,
    }


def job(number: int) -> dict[str, Any]:
    """A job that is done."""
    return {
        "pk": number + 1,
        "spectrum_pk": number + 1,
        "weights_sha256": "ab" * 32,
        "weights_name": "own.pt",
        "tag": "",
        "lane": "bulk",
        "state": JobState.DONE,
        "attempts": 1,
        "file_version": "4321000-1700000000000000000",
        "updated_at": MOMENT,
    }


def result(number: int) -> dict[str, Any]:
    """What a row of results says besides its labels."""
    return {
        "task_pk": number + 1,
        "spectrum_pk": number + 1,
        "source_pk": number // OF_STAR + 1,
        "weights_sha256": "ab" * 32,
        "weights_name": "own.pt",
        "tag": "",
        "software_version": "0.1.0",
        "corrections_sha256": "cd" * 32,
        "mc_samples": 100,
        "seed": 0,
        "created": MOMENT,
        "modified": MOMENT,
        "t_elapsed": 0.001,
        "t_overhead": 0.0005,
        "result_flags": number % 7,
    }


def plain_seconds(engine: Engine, rows: int, folder: Path) -> dict[str, float]:
    """Seconds a row of the plain way: a table of astropy's, and its `write`."""
    columns = table_columns()
    query = (
        select(*(column.source for column in columns))
        .select_from(AstroNN)
        .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
        .join(Source, Source.pk == AstroNN.source_pk)
        .order_by(Spectrum.path)
        .limit(rows)
    )
    started = time.perf_counter()
    with engine.connect() as connection:
        found = [
            [str(value) if isinstance(value, datetime) else value for value in row]
            for row in connection.execute(query)
        ]
    filled = [
        ["" if value is None else value for value in values] for values in zip(*found, strict=True)
    ]
    table = Table(filled, names=[column.name for column in columns])
    reading = time.perf_counter() - started
    seconds = {}
    for ending, name in FORMATS.items():
        started = time.perf_counter()
        table.write(folder / f"plain{ending}", format=name)
        seconds[ending] = (reading + time.perf_counter() - started) / rows
    return seconds


def run(database: str, *arguments: object) -> tuple[float, float]:
    """Run a command; its seconds and the most MB of memory that it took."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in (EXECUTABLE, *arguments)],
        env=os.environ | {"ASTRONN_STREAM_DATABASE_URL": database},
        stdout=subprocess.DEVNULL,
    )
    memory = 0.0
    while process.poll() is None:
        # Not the resources that wait4 tells: these begin with the memory of who started it.
        status = Path(f"/proc/{process.pid}/status").read_text()
        if found := re.search(r"VmHWM:\s*(\d+) kB", status):
            memory = int(found[1]) * 1024 / 1e6
        time.sleep(0.02)
    assert process.returncode == 0, arguments
    return time.perf_counter() - started, memory


def measure(database: str, folder: Path, rows: int, plain: int) -> None:
    """Fill a database, and print a line for each command."""
    engine = open_database(database)
    upgrade(engine)
    started = time.perf_counter()
    fill(engine, rows)
    print(
        f"{rows} rows in {engine.dialect.name}, put there in {time.perf_counter() - started:.0f} s"
    )
    seconds_of_plain = plain_seconds(engine, min(plain, rows), folder)
    engine.dispose()
    for ending in FORMATS:
        output = folder / f"labels{ending}"
        seconds, memory = run(database, "export", "--out", output)
        size = output.stat().st_size / 1e6
        ratio = seconds_of_plain[ending] * rows / seconds
        show(ending, seconds, memory, f", {size:.0f} MB of file, {ratio:.1f}x the plain way")
        output.unlink()
    show("--survey", *run(database, "export", "--survey", folder))
    corrections = folder / "corrections.json"
    corrections.write_text(json.dumps({name: {"scale": 2, "offset": 10} for name in LABEL_NAMES}))
    show("recalibrate", *run(database, "recalibrate", corrections))


def show(what: str, seconds: float, memory: float, more: str = "") -> None:
    """Print a line."""
    print(f"  {what:<12} {seconds:6.1f} s, {memory:4.0f} MB of memory{more}", flush=True)


def main() -> None:
    """Measure on one kind of database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--plain", type=int, default=20_000, help="rows of the plain way")
    parser.add_argument("--postgresql", action="store_true")
    arguments = parser.parse_args()
    kind = PostgresServer if arguments.postgresql else SqliteFile
    with short_folder() as folder, contextlib.closing(kind(folder)) as database:
        measure(database.url, folder, arguments.rows, arguments.plain)


if __name__ == "__main__":
    main()

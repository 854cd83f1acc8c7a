"""The whole stream beside the plain serial pipeline: from files to rows.

The stream is the command ``astronn-stream run`` as a user runs it, in both modes, with a new
database each time. The plain pipeline processes fewer spectra, because it is slow; its imports
and the loading of its weights are not counted, while the command pays for all that it starts.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select

from producer.bench.engines import engine_floors
from producer.bench.floors import loading_floor
from producer.bench.measured import Measured, Tell, compare
from producer.bench.memory import MemoryWatch
from producer.bench.plain_pipeline import PlainPipeline
from producer.bench.spectra import bytes_per_spectrum, files_of
from worker.database.session import opened, reading
from worker.database.tables import AstroNN
from worker.errors import FatalError
from worker.identity import Place
from worker.network.checkpoint import read_checkpoint
from worker.network.engines.choose import choose_device, open_engine
from worker.settings import Settings

PLAIN = "plain, serial"
SERIAL, STREAM = "run --serial", "run"
WHOLE, STEADY = "run, whole command", "run, steady"
_SUMMARY = re.compile(r"Processed (\d+) spectr\w+ in ([\d.]+) s")


@dataclass(frozen=True)
class Run:
    """One run of the command: seconds of a spectrum.

    Attributes
    ----------
    processing
        As the command tells it: the start of the workers included, reading headers and writing
        the table not.
    whole
        From the start of the command to its end.
    steady
        From the first row to the last.
    peak_mb
        Of all its processes together.
    """

    processing: float
    whole: float
    steady: float
    peak_mb: float | None


def measure_stream(
    settings: Settings,
    folder: Path,
    spectra: Sequence[Place],
    plain_spectra: int,
    rounds: int,
    tell: Tell,
) -> list[Measured]:
    """Both modes of the command and the plain pipeline, in alternating rounds.

    Parameters
    ----------
    folder, spectra
        Files, and all spectra in them.
    plain_spectra
        How many the plain pipeline processes in a round.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    few = spectra[:plain_spectra]
    for number in range(1, rounds + 1):
        tell(f"{PLAIN}, round {number} of {rounds}")
        seconds[PLAIN].append(time_plain(settings, folder, few))
        for way, options in ((SERIAL, ["--serial"]), (STREAM, [])):
            tell(f"{way}, round {number} of {rounds}")
            run = time_run(settings, folder, options)
            seconds[way].append(run.processing)
            peaks[way] += [run.peak_mb] if run.peak_mb is not None else []
        seconds[WHOLE].append(run.whole)
        seconds[STEADY].append(run.steady)
    if any(map(math.isnan, seconds[STEADY])):  # a handful of spectra, all in one message
        del seconds[STEADY]
    floor = stream_floor(settings, folder, spectra)
    return compare(
        f"{len(spectra)} spectra (plain: {len(few)})",
        seconds,
        {way: len(few if way == PLAIN else spectra) for way in seconds},
        plain=PLAIN,
        floors=dict.fromkeys(seconds, floor),
        peaks={way: statistics.median(each) for way, each in peaks.items() if each},
    )


def time_plain(settings: Settings, folder: Path, spectra: Sequence[Place]) -> float:
    """Seconds of a spectrum of the plain pipeline."""
    with (
        tempfile.TemporaryDirectory() as place,
        opened(f"sqlite:///{place}/plain.sqlite") as database,
    ):
        pipeline = PlainPipeline(settings, database)
        started = time.perf_counter()
        pipeline.process(folder, spectra)
        return (time.perf_counter() - started) / len(spectra)


def time_run(settings: Settings, files: Path, options: Sequence[str]) -> Run:
    """One run of the command on all files.

    Raises
    ------
    FatalError
        It failed.
    """
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{place}/run.sqlite"
        started = time.perf_counter()
        output, peak = _command(
            settings.changed(database_url=url, data_root=files),
            ["run", str(files), "--out", f"{place}/labels.fits", *options],
        )
        whole = time.perf_counter() - started
        found = _SUMMARY.search(output)
        if found is None:
            raise FatalError(f"`astronn-stream run` did not process anything: {output}")
        count = int(found[1])
        with opened(url) as database, reading(database) as connection:
            moments = list(connection.scalars(select(AstroNN.created)))
    return Run(float(found[2]) / count, whole / count, steady_seconds(moments), peak)


def steady_seconds(moments: Sequence[datetime]) -> float:
    """Seconds of a spectrum, from the first rows to the last; those first ones do not count.

    NaN where all rows were written at once.
    """
    first, last = min(moments), max(moments)
    later = len(moments) - list(moments).count(first)
    return (last - first).total_seconds() / later if later else float("nan")


def stream_floor(settings: Settings, folder: Path, spectra: Sequence[Place]) -> float:
    """Seconds of a spectrum: inference on the device, and loading shared by all cores."""
    device = choose_device(settings.device)
    model = read_checkpoint(settings.weights_file)
    engine = open_engine(model, mc_samples=settings.mc_samples, seed=settings.seed, device=device)
    inference = engine_floors(model, [engine], settings.mc_samples, device)[engine.name]
    some = spectra[:100]
    load = loading_floor(files_of(folder, some), bytes_per_spectrum(folder, some))
    return inference + load / (settings.loaders + 1)


def _command(settings: Settings, arguments: Sequence[str]) -> tuple[str, float | None]:
    """Run the command; what it printed, and the memory of all its processes."""
    executable = Path(sys.executable).parent / "astronn-stream"
    with (
        subprocess.Popen(  # noqa: S603 - our own command
            [str(executable), *arguments],
            env={**os.environ, **settings.environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
        MemoryWatch(process.pid) as memory,
    ):
        try:
            output, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise FatalError(f"`astronn-stream run` failed: {output.strip()}")
    return output, memory.peak_mb

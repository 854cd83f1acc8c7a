"""One visit at a time through an idle stack: from its file to its row."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from producer.bench.measured import Measured, Tell, compare
from producer.bench.plain_pipeline import PlainPipeline
from producer.ledger.enqueue import register_files
from producer.ledger.plan import Plan
from producer.ledger.release import release, send
from producer.running.stack_child import StackChild
from worker.app import connect_to
from worker.database.session import opened
from worker.errors import FatalError
from worker.identity import Place
from worker.local.stack import REDIS, WHOLE_STACK
from worker.network.checkpoint import read_checkpoint
from worker.network.engines.choose import choose_device, open_engine
from worker.settings import Settings, socket_broker_url, socket_folder
from worker.spectra.load import load_spectra
from worker.transport.broker import Broker
from worker.transport.client import broker_client

PLAIN, STREAM = "plain, one by one", "live lane"
#: Visits before those that are timed: the first one waits for the workers to start.
WARM_UP = 3
#: Seconds between two looks for a row, between a row and the next visit, and for a row at most.
_LOOK, _REST, _LONGEST = 0.002, 0.2, 120.0


def measure_live(
    settings: Settings, folder: Path, visits: Sequence[Place], tell: Tell
) -> list[Measured]:
    """Seconds from giving a visit to the stream to its row, beside the plain pipeline.

    Parameters
    ----------
    visits
        One of each file; the first ``WARM_UP`` are not counted.
    """
    tell("the plain pipeline")
    seconds = {PLAIN: time_plain_visits(settings, folder, visits)}
    tell("the work alone")
    floor = work_alone(settings, folder, visits)
    tell("starting a stack")
    seconds[STREAM] = time_visits(settings, folder, visits, tell)
    seconds = {way: times[WARM_UP:] for way, times in seconds.items()}
    rows = compare(
        "one visit",
        seconds,
        dict.fromkeys(seconds, 1),
        plain=PLAIN,
        floors=dict.fromkeys(seconds, floor),
        peaks={},
    )
    return [replace(row, p99=float(np.quantile(seconds[row.way], 0.99))) for row in rows]


def time_plain_visits(settings: Settings, folder: Path, visits: Sequence[Place]) -> list[float]:
    """Seconds of each visit by the plain pipeline."""
    with (
        tempfile.TemporaryDirectory() as place,
        opened(f"sqlite:///{place}/plain.sqlite") as database,
    ):
        pipeline = PlainPipeline(settings, database)
        return [_seconds(lambda: pipeline.process(folder, [each])) for each in visits]  # noqa: B023


def work_alone(settings: Settings, folder: Path, visits: Sequence[Place]) -> float:
    """Seconds of a visit's loading and inference, with nothing else around them."""
    device = choose_device(settings.device)
    engine = open_engine(
        read_checkpoint(settings.weights_file),
        mc_samples=settings.mc_samples,
        seed=settings.seed,
        device=device,
    )
    load, infer = [], []
    for visit in visits:
        flux = load_spectra([visit], folder, settings.coadd_mask).flux
        keys = [visit.natural_key] * len(flux)
        load.append(_seconds(lambda: load_spectra([visit], folder, settings.coadd_mask)))  # noqa: B023
        infer.append(_seconds(lambda: engine(flux, keys)))  # noqa: B023
    return statistics.median(load) + statistics.median(infer)


def time_visits(
    settings: Settings, folder: Path, visits: Sequence[Place], tell: Tell
) -> list[float]:
    """Seconds of each visit through a stack of its own, which is idle before it."""
    directory = Path(tempfile.mkdtemp(prefix="astronn-stream-", dir=socket_folder()))
    try:
        with tempfile.TemporaryDirectory() as place:
            settings = settings.changed(
                broker_url=socket_broker_url(directory),
                database_url=f"sqlite:///{place}/live.sqlite",
                data_root=folder,
            )
            connect_to(settings)
            return _through_stack(settings, directory, visits, tell)
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # where the stack could not even start


def _through_stack(
    settings: Settings, directory: Path, visits: Sequence[Place], tell: Tell
) -> list[float]:
    root = settings.data_root
    plans = [Plan.make([root / each.path], settings, wanted="visit", tag="live") for each in visits]
    taken = []
    with (
        opened(settings.database_url) as database,
        StackChild(settings, directory, [REDIS, *WHOLE_STACK]) as stack,
    ):
        stack.wait_until_ready()
        with closing(broker_client(settings)) as client:
            name = Broker(client, settings.broker).name()
            for number, plan in enumerate(plans):
                tell(f"visit {number + 1} of {len(plans)}")
                started = time.perf_counter()
                jobs = register_files(database, plan, iter, lane="live").jobs
                release(database, send, settings, name, weights=plan.weights, jobs=jobs)
                _wait_for_row(settings, jobs[0])
                taken.append(time.perf_counter() - started)
                stack.check()
                time.sleep(_REST)
    return taken


def _wait_for_row(settings: Settings, job: int) -> None:
    """Wait until anyone who looks sees the row of a job."""
    deadline = time.monotonic() + _LONGEST
    # Not through SQLAlchemy: looking is to take nothing from the stack.
    with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"))) as database:
        while not database.execute("SELECT 1 FROM astronn WHERE task_pk = ?", (job,)).fetchone():
            if time.monotonic() > deadline:
                raise FatalError(f"A visit had no row after {_LONGEST:.0f} s.")
            time.sleep(_LOOK)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

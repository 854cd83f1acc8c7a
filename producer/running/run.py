"""The main job: files in, a table of labels out, with whatever that needs brought up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from producer.ledger.chunks import load_messages
from producer.ledger.plan import Plan
from producer.ledger.register import Registered, register_files
from producer.ledger.requeue import blocks
from producer.progress import Bar, Finished, Reading
from worker.database.session import existing, opened, transaction
from worker.errors import FatalError
from worker.messages import LoadSpectra
from worker.results.read import RowSelection, read_columns, read_table
from worker.results.summary import COLUMNS, Summary, summarise

if TYPE_CHECKING:
    from astropy.table import Table

#: What must be the same for a row to be as this run would have made it.
_PROVENANCE = ("corrections_sha256", "seed", "mc_samples")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes
    ----------
    jobs
        Those of all its spectra.
    summary
        Counts of their rows.
    processed
        How many spectra got their row in this run, within ``seconds``.
    other_provenance
        How many rows were kept from before that other settings had made.
    """

    jobs: list[int]
    summary: Summary
    processed: int
    seconds: float
    other_provenance: int


def carry_out(plan: Plan, *, serial: bool, headers: Reading, bar: Bar) -> Outcome:
    """Do all of a plan: register its files, process what has no result, read all results.

    Parameters
    ----------
    serial
        In this process alone; otherwise through the stream.
    headers, bar
        How progress is shown: while headers are read, and while spectra are processed.
    """
    with opened(plan.settings.database_url) as database:
        registered = register_files(database, plan, headers)
        started = time.perf_counter()
        if registered.open_jobs:
            with bar("Processing", len(registered.open_jobs)) as advance:
                if serial:
                    run_serial(database, plan, registered.open_jobs, advance)
                else:
                    from producer.running.stream import run_stream  # Celery and Redis with it

                    run_stream(database, plan, registered.open_jobs, advance)
        return collect(database, plan, registered, time.perf_counter() - started)


def run_serial(database: Engine, plan: Plan, jobs: list[int], finished: Finished) -> None:
    """Process jobs in this process alone."""
    from worker.stages.serial import process

    def messages() -> Iterator[LoadSpectra]:
        for block in blocks(jobs):
            with transaction(database) as session:
                part = load_messages(session, block, chunk_size=plan.settings.chunk_size)
            yield from part

    process(messages(), database, plan.settings, finished)


def collect(database: Engine, plan: Plan, registered: Registered, seconds: float) -> Outcome:
    """Count the rows of a run's spectra."""
    selection = RowSelection(jobs=registered.jobs)
    rows = read_columns(database, selection, {*COLUMNS, *_PROVENANCE, "task_pk"})
    if len(rows["task_pk"]) != len(registered.jobs):
        raise FatalError(
            f"{len(registered.jobs)} spectra were registered, but there are "
            f"{len(rows['task_pk'])} rows; run the same command again."
        )
    return Outcome(
        registered.jobs,
        summarise(rows),
        len(registered.open_jobs),
        seconds,
        _of_other_settings(rows, registered, plan),
    )


def results_of(outcome: Outcome, plan: Plan) -> Table:
    """The rows of a run's spectra."""
    with existing(plan.settings.database_url) as database:
        return read_table(database, jobs=outcome.jobs)


def _of_other_settings(rows: dict[str, NDArray[Any]], registered: Registered, plan: Plan) -> int:
    """How many labelled rows another noise model, seed or number of passes had made before."""
    settings = plan.settings
    wanted = (plan.corrections or "", settings.seed, settings.mc_samples)
    other = np.any([rows[n] != value for n, value in zip(_PROVENANCE, wanted, strict=True)], axis=0)
    kept = ~np.isin(rows["task_pk"], registered.open_jobs)
    return int((kept & other & ~rows["flag_no_result"]).sum())

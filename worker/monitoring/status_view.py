"""The status as one screen for people."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from worker.database.tables import JobState
from worker.monitoring.status import Reason, Status, Worker
from worker.queues import LANES, QUEUES, STAGES
from worker.text import printable

_MOST_REASONS = 5


def draw(status: Status) -> RenderableType:
    """What is down, the stages, the jobs, and why spectra have no labels."""
    parts: list[RenderableType] = [f"[red]- {_plain(each)}[/red]" for each in status.problems]
    if not status.problems:
        parts.append("[green]All is well.[/green]")
    if status.weights_name is not None:
        also = [each for each in status.open_by_weights.items() if each[0] != status.weights]
        served = [status.weights_name, *(f"{name[:12]} ({n:,} open jobs)" for name, n in also)]
        parts.append(f"Serves: {_plain(', also '.join(served))}")
    if status.redis:
        parts.append(_stages(status))
    if status.database:
        parts += [_jobs(status), _summary(status)]
    if status.workers:
        parts.append(_workers(status.workers))
    parts += _reasons("newest rows without labels", status.failures)
    parts += _reasons("what keeps spectra on their way", status.setbacks)
    return Group(*parts)


def _plain(text: str) -> str:
    """Text from files or errors, shown as it is, without markup."""
    return escape(printable(text))


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _stages(status: Status) -> Table:
    table = _table("stage", "live waits", "bulk waits", "pauses at", "spectra a second", "workers")
    for stage in STAGES:
        live, bulk = QUEUES[stage]
        pace = status.spectra_per_second.get(stage, 0.0)
        if stage == "record":
            pace = status.rows_per_second()
        table.add_row(
            stage,
            str(status.queues.get(live, "?")),
            str(status.queues.get(bulk, "?")),
            str(status.marks.get(bulk, "")),
            f"{pace:.1f}",
            str(status.serving(live, bulk)) if status.redis_writes else "?",
        )
    table.caption = f"messages; {status.taken} more are in workers' hands"
    return table


def _jobs(status: Status) -> Table:
    table = _table("jobs", *(state.value for state in JobState))
    for lane in LANES:
        states = status.jobs.get(lane, {})
        table.add_row(lane, *(f"{states.get(state, 0):,}" for state in JobState))
    return table


def _summary(status: Status) -> str:
    eta = status.eta_seconds
    oldest = status.oldest_live_seconds
    return (
        f"Rows without labels: {status.without_labels:,}. "
        f"Done in: {_duration(eta) if eta else '-'}. "
        f"Oldest live spectrum under way: {_duration(oldest) if oldest is not None else '-'}."
    )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _workers(workers: dict[str, Worker]) -> Table:
    table = _table("worker", "device", "busy", "batch", "batch wait")
    for name, worker in workers.items():
        table.add_row(
            _plain(name),
            _plain(_device(worker)),
            "" if worker.busy is None else f"{100 * worker.busy:.0f} %",
            "" if worker.batch_size is None else f"{worker.batch_size:.1f}",
            "" if worker.batch_wait is None else f"{1000 * worker.batch_wait:.0f} ms",
        )
    return table


def _device(worker: Worker) -> str:
    """The device and its engine, as ``cpu (bfloat16)`` or ``cuda, triton (bfloat16)``."""
    device, engine = worker.device or "", worker.engine or ""
    return engine if engine.startswith(device) else f"{device}, {engine}".removesuffix(", ")


def _reasons(title: str, reasons: list[Reason]) -> list[RenderableType]:
    if not reasons:
        return []
    table = Table()
    table.add_column("number", justify="right")
    table.add_column(title)
    for each in reasons[:_MOST_REASONS]:
        table.add_row(str(each.number), _plain(each.reason))
    return [table]

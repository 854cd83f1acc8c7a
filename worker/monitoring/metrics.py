"""The stream as numbers for Prometheus: what `status` knows, and what Flower counts.

One endpoint serves both. Each scrape is one look at the stream.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from worker.errors import FatalError
from worker.monitoring.status import Status, read_status
from worker.outage import Outage
from worker.queues import QUEUES, STAGES
from worker.settings import Settings

PREFIX = "astronn_stream_"
_FLOWER = "flower_"
_FLOWER_SECONDS = 5.0

_Samples = dict[tuple[str, ...], float | None]


class StreamCollector(Collector):
    """The metrics of the stream.

    Parameters
    ----------
    flower
        Where Flower answers, as ``http://127.0.0.1:5555``; None where there is none.
    """

    def __init__(self, settings: Settings, flower: str | None = None) -> None:
        self._settings = settings
        self._flower = flower
        self._outage = Outage("metrics")

    def collect(self) -> Iterator[Metric]:
        """All metrics; of what is away there are none, and ``up`` says that it is."""
        status = self._status()
        up: _Samples = {
            ("redis",): status.redis,
            ("database",): status.database,
            ("dispatcher",): status.dispatcher,
        }
        if self._flower is not None:
            of_flower = _flower_metrics(self._flower)
            up["flower",] = bool(of_flower)
            yield from of_flower
        yield _gauge("up", "Whether a part of the stream answers.", ("part",), up)
        for name, text, labels, samples in _GAUGES:
            yield _gauge(name, text, labels, samples(status))
        served = CounterMetricFamily(
            f"{PREFIX}spectra", "Spectra that a task has served.", labels=["task"]
        )
        for task, number in status.spectra.items():
            served.add_metric([task], number)
        yield served

    def _status(self) -> Status:
        try:
            status = read_status(self._settings)
        except FatalError as error:
            self._outage.begin(error)
            return Status(problems=[str(error)])
        self._outage.end()
        return status


def stream_registry(settings: Settings, flower: str | None = None) -> CollectorRegistry:
    """What a server of metrics serves."""
    registry = CollectorRegistry()
    registry.register(StreamCollector(settings, flower))
    return registry


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: _Samples) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples.items():
        if number is not None:
            gauge.add_metric(values, number)
    return gauge


def _workers(status: Status) -> _Samples:
    if not status.redis:
        return {}
    return {(stage,): status.serving(*QUEUES[stage]) for stage in STAGES}


def _jobs(status: Status) -> _Samples:
    return {
        (lane, state): number
        for lane, states in status.jobs.items()
        for state, number in states.items()
    }


def _age(seconds: float | None, status: Status) -> _Samples:
    return {(): (seconds or 0.0) if status.database else None}


_GAUGES: tuple[tuple[str, str, tuple[str, ...], Callable[[Status], _Samples]], ...] = (
    (
        "problems",
        "Sentences in which `astronn-stream status` says what is wrong.",
        (),
        lambda status: {(): len(status.problems)},
    ),
    ("workers", "Workers that live and serve a stage.", ("stage",), _workers),
    (
        "queue_messages",
        "Messages that wait in a queue.",
        ("queue",),
        lambda status: {(queue,): number for queue, number in status.queues.items()},
    ),
    (
        "taken_messages",
        "Messages in the hands of workers.",
        (),
        lambda status: {(): status.taken},
    ),
    ("jobs", "Jobs in the ledger.", ("lane", "state"), _jobs),
    (
        "rows_without_labels",
        "Rows of results that have no labels.",
        (),
        lambda status: {(): status.without_labels},
    ),
    (
        "spectra_per_second",
        "Spectra that a task served a second in the last minute.",
        ("task",),
        lambda status: {(task,): pace for task, pace in status.spectra_per_second.items()},
    ),
    (
        "eta_seconds",
        "How long the open jobs take at the present rate.",
        (),
        lambda status: {(): status.eta_seconds},
    ),
    (
        "oldest_live_seconds",
        "How long the live spectrum has waited that has for longest.",
        (),
        lambda status: _age(status.oldest_live_seconds, status),
    ),
    (
        "oldest_queued_seconds",
        "How long the job has been under way that was sent first.",
        (),
        lambda status: _age(status.oldest_queued_seconds, status),
    ),
    (
        "batch_size",
        "Mean number of spectra in a batch, in the last half minute.",
        ("worker",),
        lambda status: {(name,): each.batch_size for name, each in status.workers.items()},
    ),
    (
        "batch_wait_seconds",
        "Mean seconds that a spectrum waited for its batch, in the last half minute.",
        ("worker",),
        lambda status: {(name,): each.batch_wait for name, each in status.workers.items()},
    ),
    (
        "device_busy_fraction",
        "Fraction of the last half minute in which the device computed.",
        ("worker", "device"),
        lambda status: {
            (name, each.device or ""): each.busy for name, each in status.workers.items()
        },
    ),
)


def _flower_metrics(url: str) -> list[Metric]:
    """What Flower counts, without what it says of its own process; empty where it is away."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/metrics", timeout=_FLOWER_SECONDS) as page:  # noqa: S310 - the command checks its scheme
            families = list(text_string_to_metric_families(page.read().decode()))
    except (OSError, HTTPException, ValueError):
        return []
    return [family for family in families if family.name.startswith(_FLOWER)]

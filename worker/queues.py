"""The stages, their lanes and their queues."""

from __future__ import annotations

from typing import Literal

#: How urgent spectra are: ``live`` goes before ``bulk`` at every stage.
Lane = Literal["live", "bulk"]
#: The most urgent first.
LANES: tuple[Lane, ...] = ("live", "bulk")

Stage = Literal["load", "infer", "record"]
#: In the order in which a spectrum passes them.
STAGES: tuple[Stage, ...] = ("load", "infer", "record")

#: The queues of each stage, in the order of ``LANES``. The recorder's of the bulk is called by the
#: stage alone: stacks that run have messages in it.
QUEUES: dict[Stage, tuple[str, ...]] = {
    "load": ("load.live", "load.bulk"),
    "infer": ("infer.live", "infer.bulk"),
    "record": ("record.live", "record"),
}
#: All of them.
ALL_QUEUES = tuple(queue for queues in QUEUES.values() for queue in queues)


def lane_queue(stage: Stage, lane: Lane) -> str:
    """The queue of a stage for a lane."""
    return QUEUES[stage][LANES.index(lane)]

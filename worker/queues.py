"""The stages, their lanes and their queues."""

from __future__ import annotations

from typing import Literal

#: How urgent spectra are: ``live`` goes before ``bulk`` at every stage.
Lane = Literal["live", "bulk"]

Stage = Literal["load", "infer", "record"]
#: In the order in which a spectrum passes them.
STAGES: tuple[Stage, ...] = ("load", "infer", "record")

#: The queues of each stage, the most urgent first.
QUEUES: dict[Stage, tuple[str, ...]] = {
    "load": ("load.live", "load.bulk"),
    "infer": ("infer.live", "infer.bulk"),
    "record": ("record.live", "record"),
}


def lane_queue(stage: Stage, lane: Lane) -> str:
    """The queue of a stage that has lanes."""
    return f"{stage}.{lane}"

"""The screen of `status`, drawn from simulated states of the stream."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from worker.monitoring.status import Reason, Status, Worker
from worker.monitoring.status_view import draw

BUSY: dict[str, Any] = {
    "redis": True,
    "redis_writes": True,
    "database": True,
    "dispatcher": True,
    "weights": "ab" * 32,
    "weights_name": "ab" * 6,
    "queues": {
        "load.live": 1,
        "load.bulk": 22,
        "infer.live": 3,
        "infer.bulk": 64,
        "record.live": 5,
        "record": 66,
    },
    "marks": {"infer.bulk": 64},
    "taken": 7,
    "jobs": {
        "live": {"waiting": 0, "queued": 1, "done": 20},
        "bulk": {"waiting": 1_234_567, "queued": 4096, "done": 9},
    },
    "without_labels": 12,
    "spectra_per_second": {"load": 80.0, "infer": 75.0, "record": 70.04, "no_result": 2.0},
    "eta_seconds": 3723.4,
    "oldest_live_seconds": 61.0,
    "workers": {
        "infer@a": Worker(
            queues=["infer.bulk", "infer.live"],
            device="cuda",
            engine="triton (bfloat16)",
            busy=0.934,
            batch_size=61.25,
            batch_wait=0.0123,
        ),
        "load-12-3@a": Worker(queues=["load.bulk", "load.live"]),
        "load-live@a": Worker(queues=["load.live"]),
    },
    "failures": [
        Reason(
            reason="… is not a [bold]FITS\x1b file.",
            number=11,
            latest=datetime(2026, 1, 1, tzinfo=UTC),
            example="x.fits is not a FITS file.",
        )
    ],
}


def drawn(width: int = 100, **values: Any) -> str:
    console = Console(width=width, record=True, file=None, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(draw(Status(**values)))
    return capture.get()


def row(screen: str, name: str) -> list[str]:
    (line,) = [line for line in screen.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_busy_stream_is_told_in_numbers() -> None:
    screen = drawn(**BUSY)
    assert "All is well." in screen
    assert row(screen, "load") == ["load", "1", "22", "", "80.0", "2"]
    assert row(screen, "infer") == ["infer", "3", "64", "64", "75.0", "1"]
    assert row(screen, "record") == ["record", "5", "66", "", "72.0", "0"]
    assert row(screen, "bulk") == ["bulk", "1,234,567", "4,096", "9"]
    expected = ["infer@a", "cuda, triton (bfloat16)", "93 %", "61.2", "12 ms"]
    assert row(screen, "infer@a") == expected
    assert "Rows without labels: 12." in screen
    assert "Done in: 1:02:03" in screen
    assert "Oldest live spectrum under way: 0:01:01" in screen
    assert "7 more are in workers' hands" in screen
    assert row(screen, "    11") == ["11", "… is not a [bold]FITS? file."]


@pytest.mark.parametrize(
    ("device", "engine", "shown"),
    [
        ("cpu", "cpu (float32)", "cpu (float32)"),
        ("cpu", "torch", "cpu, torch"),
        ("cpu", None, "cpu"),
        (None, None, ""),
    ],
)
def test_the_engine_is_shown_with_its_device(
    device: str | None, engine: str | None, shown: str
) -> None:
    worker = Worker(queues=["infer.bulk"], device=device, engine=engine)
    assert row(drawn(workers={"infer@b": worker}), "infer@b")[1] == shown


def test_a_narrow_terminal_cuts_no_word() -> None:
    assert "…" not in drawn(60, **BUSY | {"failures": []})


def test_it_is_one_screen() -> None:
    problems = [f"Problem {number}." for number in range(3)]
    assert len(drawn(**BUSY, problems=problems).splitlines()) <= 40


def test_what_is_down_comes_first_and_what_is_not_known_is_left_out() -> None:
    screen = drawn(problems=["Redis does not answer [sic].", "There is no database yet."])
    assert screen.splitlines() == [
        "- Redis does not answer [sic].",
        "- There is no database yet.",
    ]


def test_without_redis_the_jobs_are_told() -> None:
    screen = drawn(**BUSY | {"redis": False, "workers": {}})
    assert "spectra a second" not in screen
    assert row(screen, "bulk")[1] == "1,234,567"

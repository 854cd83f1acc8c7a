"""The arithmetic, the memory figures, the report and the picture of the benchmark."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.rig.waiting import wait_for
from producer.bench import floors
from producer.bench.engines import precision_of
from producer.bench.loading import PLAIN, check_agreement, ways
from producer.bench.machine import Machine, sentence
from producer.bench.measured import Measured, alternate, compare, ratio
from producer.bench.memory import MemoryWatch, available, family, peak_memory
from producer.bench.picture import draw
from producer.bench.report import PARTS, as_json, number, screen
from producer.bench.spectra import bytes_per_spectrum, files_of, places, simulate_files
from producer.bench.stream import steady_seconds
from producer.commands.bench import bench
from tests.inputs.apstar_files import write_apstar
from worker.errors import FatalError, UsageError
from worker.network.checkpoint import read_checkpoint

MACHINE: Machine = {
    "date": "2026-01-02T03:04+00:00",
    "astronn_stream": "1.2.3",
    "processor": "A processor",
    "cores": 4,
    "threads": 4,
    "memory_gb": 16,
    "gpu": None,
    "torch": "2.0",
    "python": "3.11",
    "system": "Linux",
    "load_before": 0.1,
}


# --- Rounds, medians, ratios ---------------------------------------------------------------


class Clock:
    """A clock that ways move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def way(self, name: str, durations: Iterator[float]) -> None:
        self.calls.append(name)
        self.now += next(durations)

    def __call__(self) -> float:
        return self.now


def timed(
    seconds: dict[str, list[float]], rounds: int, patience: float = 1e9
) -> tuple[object, ...]:
    clock = Clock()
    durations = {name: iter(times) for name, times in seconds.items()}
    ways = {name: (lambda name=name: clock.way(name, durations[name])) for name in seconds}
    return alternate(ways, rounds, clock=clock, patience=patience), clock.calls


def test_ways_take_turns_and_the_first_round_warms_up() -> None:
    taken, calls = timed({"a": [100, 1, 2, 3], "b": [200, 4, 5, 6]}, 3)
    assert taken == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert calls == ["a", "b"] * 4


def test_a_slow_way_runs_fewer_rounds_but_one() -> None:
    taken, _ = timed({"slow": [9, 30], "medium": [9, 6, 6], "fast": [9, 1, 1, 1, 1]}, 4, 15)
    assert taken == {"slow": [30], "medium": [6, 6], "fast": [1, 1, 1, 1]}


def test_the_ratio_is_the_median_of_rounds_side_by_side() -> None:
    assert ratio([10, 20, 60], [1, 4, 3]) == 10  # of 10, 5 and 20; not 20 / 3
    assert ratio([10, 30], [1, 2, 5]) == 10  # of 10, 15 and 30 / 5
    assert ratio([12], [3]) == 4


def test_ways_are_compared_with_the_plain_one() -> None:
    seconds = {"plain": [0.2, 0.4, 0.3], "ours": [0.02, 0.01, 0.03]}
    plain, ours = compare(
        "case",
        seconds,
        {"plain": 8, "ours": 80},
        plain="plain",
        floors={"plain": 0.03, "ours": 0.005},
        peaks={"ours": 12.5},
    )
    assert plain == Measured("case", "plain", 8, 3, 0.3, 1.0, 0.03, None)
    assert ours == Measured("case", "ours", 80, 3, 0.02, 10.0, 0.005, 12.5)
    assert (ours.per_second, ours.reached) == (50, 0.25)
    alone = compare("", {"ours": [1.0]}, {"ours": 1}, plain="plain", floors={"ours": 1}, peaks={})
    assert math.isnan(alone[0].ratio)


def test_the_steady_rate_leaves_out_the_start() -> None:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    after = [0, 0, 0, 2, 4, 10, 10]
    assert steady_seconds([first + timedelta(seconds=each) for each in after]) == 10 / 4
    assert math.isnan(steady_seconds([first, first]))


# --- Floors --------------------------------------------------------------------------------


def test_operations_are_those_of_the_layers_behind_the_first_dropouts(
    demonstration_weights: Path,
) -> None:
    model = read_checkpoint(demonstration_weights)
    counted: dict[str, int] = {}

    def count_of(name: str, module: torch.nn.Module) -> None:
        def hook(_module: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            each = inputs[0].shape[-1]
            if isinstance(module, torch.nn.Conv1d):
                each = module.in_channels * module.kernel_size[0]
            counted[name] = 2 * each * output.numel()

        module.register_forward_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Linear):
            count_of(name, module)
    with torch.inference_mode():
        model(torch.zeros(1, 7514))
    ahead = [name for name in counted if name == "conv1" or name.startswith("elem_dense1.")]
    assert len(ahead) == 20
    largest, rest = floors.operations(model)
    assert largest == counted["dense_1"] == 2 * 7512 * 192
    behind = sum(counted.values()) - sum(counted[name] for name in ahead)
    assert rest == behind - counted["dense_1"]


def test_the_floor_of_inference_is_the_work_at_its_rates(
    demonstration_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"float32": 1e9, "bfloat16": 4e9}
    monkeypatch.setattr(floors, "product_rate", lambda precision, _device: rates[precision])
    model = read_checkpoint(demonstration_weights)
    largest, rest = floors.operations(model)
    assert floors.inference_floor(model, 7, "bfloat16", "cpu") == pytest.approx(
        7 * (largest / 4e9 + rest / 1e9)
    )


def test_the_best_of_many_calls_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, durations = [0.0], iter([5.0, 3.0, 2.0, *[4.0] * 100])
    monkeypatch.setattr(floors.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(durations)

    assert floors.best(call) == 2
    assert now[0] == 5 + 3 + 2 + 6 * 4  # nine calls: the seconds to try in were over before


def test_precisions_are_read_from_names() -> None:
    assert [precision_of(each) for each in ("torch", "cpu (bfloat16)", "x (float16)")] == [
        "float32",
        "bfloat16",
        "float16",
    ]


@pytest.mark.parametrize(("layout", "pixel"), [("dr13", 10), ("dr17", 24), ("sdss5", 24)])
def test_the_bytes_of_a_spectrum_are_those_of_its_rows(
    tmp_path: Path, layout: str, pixel: int
) -> None:
    spectra = simulate_files(tmp_path, 2, 2, layout)
    assert bytes_per_spectrum(tmp_path, spectra) == 8575 * pixel


def test_files_whose_names_are_no_utf8_are_measured_too(tmp_path: Path) -> None:
    write_apstar(tmp_path / os.fsdecode(b"apStar-dr17-2M\xff\xfe.fits"), n_visits=2)
    spectra = places(tmp_path)
    loaded = {way: load(tmp_path, spectra, "and") for way, load in ways().items()}
    assert {len(flux) for flux in loaded.values()} == {3}
    assert [file.exists() for file in files_of(tmp_path, spectra)] == [True]
    assert bytes_per_spectrum(tmp_path, spectra) > 0


def test_ways_of_loading_that_differ_are_told() -> None:
    flux = np.ones((2, 7514), np.float32)
    check_agreement("a", {PLAIN: flux, "other": flux + 1e-7})
    with pytest.raises(FatalError, match="a: other and row by row do not give the same flux"):
        check_agreement("a", {PLAIN: flux, "other": flux + 1e-4})


# --- Memory --------------------------------------------------------------------------------

linux = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux' /proc"
)


@linux
@pytest.mark.parametrize("parts", [[], ["load"], ["engine", "live"]])
def test_without_astronn_nothing_is_measured_and_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "astroNN", None)
    with pytest.raises(FatalError, match="the extra `astronn`"):
        bench(parts, out=tmp_path / "bench")
    assert not (tmp_path / "bench").exists()


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no part 'lood'; there are engine, load, stream, live"):
        bench(["load", "lood"], out=tmp_path / "bench")


def test_the_peak_is_that_of_a_process_of_its_own() -> None:
    small = peak_memory("numpy", "ones", shape=[10])
    large = peak_memory("numpy", "ones", shape=[30_000_000])
    assert small is not None
    assert large is not None
    assert 0.9 * 229 < large - small < 1.2 * 229  # 240 million bytes


def test_a_function_that_fails_is_told() -> None:
    with pytest.raises(FatalError, match=r"numpy\.ones failed in a process of its own: .*shape"):
        peak_memory("numpy", "ones")


@linux
def test_a_commands_memory_is_that_of_all_its_processes() -> None:
    child = "import time; kept = b'x' * 150_000_000; print(flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert len(family(process.pid)) == 2
            with MemoryWatch(process.pid) as watch:
                wait_for(lambda: (watch.peak_mb or 0) > 140, "the child's memory to be seen")
            assert watch.peak_mb is not None
            assert watch.peak_mb < 250
        finally:
            for pid in family(process.pid)[::-1]:
                os.kill(pid, signal.SIGKILL)
    assert 0 < available() < math.inf


# --- Report and picture --------------------------------------------------------------------


@pytest.fixture
def measured() -> dict[str, list[Measured]]:
    """Something of everything, the longest texts among it."""
    engines = [
        Measured(f"batch {batch}", way, batch, 3, seconds, 0.04 / seconds, 0.0009, 460.0)
        for batch in (1, 16, 64, 256, 1024)
        for way, seconds in (("plain loop", 0.04), ("torch", 0.02), ("cpu (bfloat16)", 0.001))
    ]
    stream = [
        Measured("4000 spectra", way, 4000, 3, 0.002, 20.0, 0.0009, 900.0)
        for way in ("plain, serial", "run --serial", "run", "run, whole command", "run, steady")
    ]
    live = [Measured("one visit", "live lane", 1, 40, 0.05, 3.0, 0.003, None, 0.09)]
    load = [
        Measured(
            "dr13, simulated: 30 files, 81 spectra", "load stage", 90, 5, 2e-4, math.nan, 7e-6, None
        )
    ]
    return {"engine": engines, "load": load, "stream": stream, "live": live}


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12346"), (12.3, "12"), (1.26, "1.3"), (0.0123, "0.012"), (0, "0"), (math.nan, "")],
)
def test_figures_have_two_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_tables_fit_a_terminal_and_hold_all_figures(
    measured: dict[str, list[Measured]],
) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    assert list(measured) == list(PARTS)
    for part, rows in measured.items():
        console.print(screen(part, rows))
    text = console.export_text()
    assert "…" not in text
    assert "cpu (bfloat16)       3   1.0    1000     40   0.90    90 %   460" in text
    assert "simulated: 30" in text
    assert text.count("p99") == 1  # where it is measured
    assert "run, whole command" in text


def test_the_json_has_machine_options_and_all_figures(
    measured: dict[str, list[Measured]],
) -> None:
    document = json.loads(as_json(MACHINE, {"rounds": 3}, measured))
    assert document["version"] == 1
    assert document["machine"] == MACHINE
    assert document["options"] == {"rounds": 3}
    assert {part: len(rows) for part, rows in document["parts"].items()} == {
        part: len(rows) for part, rows in measured.items()
    }
    assert document["parts"]["live"] == [
        {
            "case": "one visit",
            "way": "live lane",
            "spectra": 1,
            "rounds": 40,
            "seconds": 0.05,
            "ratio": 3.0,
            "floor": 0.003,
            "peak_mb": None,
            "p99": 0.09,
            "per_second": 20.0,
            "reached": pytest.approx(0.06),
        }
    ]
    assert document["parts"]["load"][0]["ratio"] is None


def test_the_machine_is_told_in_a_line_and_whether_it_was_busy() -> None:
    line = "A processor, 4 cores, 16 GB; torch 2.0 with 4 threads; Python 3.11; 2026-01-02"
    assert sentence(MACHINE) == line
    assert sentence(MACHINE | {"load_before": 3.5}) == f"{line}; other jobs ran beside (load 3.5)"
    assert "; A card; " in sentence(MACHINE | {"gpu": "A card"})


@pytest.mark.parametrize("parts", [("engine",), ("load", "live"), tuple(PARTS)], ids=" ".join)
def test_a_picture_is_drawn_of_the_parts(
    measured: dict[str, list[Measured]], tmp_path: Path, parts: tuple[str, ...]
) -> None:
    draw(tmp_path / "bench.png", MACHINE, {part: measured[part] for part in parts})
    picture = matplotlib.image.imread(tmp_path / "bench.png")
    height, width = picture.shape[:2]
    assert width > 600 * min(2, len(parts))
    # Every panel holds something: none of the quarters is white.
    lines = -(-len(parts) // 2)
    for line in np.array_split(picture[..., :3], lines):
        for panel in np.array_split(line, min(2, len(parts)), axis=1):
            assert (panel < 0.9).any(axis=2).mean() > 0.005
    assert height > 500 * lines


def test_a_picture_that_cannot_be_written_is_told(
    measured: dict[str, list[Measured]], tmp_path: Path
) -> None:
    with pytest.raises(FatalError, match=r"nowhere/bench.png cannot be written"):
        draw(tmp_path / "nowhere" / "bench.png", MACHINE, measured)

"""The GPU's engine on a machine without a GPU: interpreted, compiled ahead, and refused."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compose import ROOT
from tests.unit.gpu.odd_network import odd_network
from worker.errors import FatalError
from worker.network.engines import choose, engine, torch_engine

KERNELS = {
    "convolve_spectra",
    "dense_passes",
    "draw_masks",
    "finish_passes",
    "first_elements",
    "pool_passes",
    "summarise_passes",
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests/unit/gpu runs on the GPU")
def test_the_gpus_tests_pass_in_tritons_interpreter() -> None:
    pytest.importorskip("triton")
    # A process of its own: Triton decides when it is imported.
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/unit/gpu"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert tests.returncode == 0, tests.stdout


class AheadOfTime:
    """A driver that knows for which GPU to compile and has none."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # Triton keeps what it compiled by device

    def get_current_stream(self, _device: int = 0) -> int:
        return 0


@pytest.fixture(scope="module")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture
def compiled(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, compiled_code: Path
) -> Iterator[dict[str, set[Any]]]:
    """What launches compile, by kernel; nothing is run."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(compiled_code))
    run, found = triton.JITFunction.run, defaultdict(set)

    def compile_only(kernel: Any, *arguments: Any, **options: Any) -> None:
        found[kernel.__name__].add(run(kernel, *arguments, **{**options, "warmup": True}))

    monkeypatch.setattr(triton.JITFunction, "run", compile_only)
    triton.runtime.driver.set_active(AheadOfTime(request.param))
    yield found
    if torch.cuda.is_available():
        triton.runtime.driver.reset_active()


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("compiled", [80, 90], indirect=True)
def test_each_kernel_compiles_once_for_all_batches_and_spills_no_register(
    compiled: dict[str, set[Any]], precision: engine.Precision, tmp_path: Path
) -> None:
    from triton import backends

    from worker.network.engines.triton.engine import TritonEngine

    for mc_samples, rows in ((2, 64), (100, 1000)):
        few = TritonEngine(
            odd_network(),
            mc_samples=mc_samples,
            seed=0,
            device="cpu",
            precision=precision,
            rows=rows,
        )
        for batch in (1, 3, 16):
            with np.errstate(all="ignore"):  # nothing is written: the labels are any bits
                few(np.ones((batch, 7514), np.float32), ["a"] * batch)
    assert set(compiled) == KERNELS
    reader = next(Path(backends.__path__[0]).rglob("cuobjdump"))
    for name, versions in compiled.items():
        (kernel,) = versions
        binary = tmp_path / f"{name}.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        usage = subprocess.check_output([reader, "-res-usage", binary], text=True)
        assert re.findall(r"(?:STACK|LOCAL):(\d+)", usage) == ["0", "0"], f"{name}: {usage}"


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FatalError, match="no such GPU"):
        choose.open_engine(odd_network(), mc_samples=2, seed=0, device="cuda")


def test_without_triton_torch_serves_the_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OnTheCpu(torch_engine.TorchEngine):
        def __init__(self, *arguments: Any, device: str, **named: Any) -> None:
            assert device == "cuda"
            super().__init__(*arguments, **named)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(
        sys.modules, "worker.network.engines.triton.engine", None
    )  # its import fails
    monkeypatch.setattr(torch_engine, "TorchEngine", OnTheCpu)
    with caplog.at_level(logging.WARNING):
        opened = choose.open_engine(odd_network(), mc_samples=2, seed=0, device="cuda")
    assert opened.name == "torch"
    assert [record.message for record in caplog.records if "TritonEngine cannot" in record.message]

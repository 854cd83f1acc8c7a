"""Which engine serves a device."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib import import_module

import torch

from worker.errors import FatalError
from worker.network.engines.engine import Engine, Precision, logger
from worker.network.model import ApogeeBCNNCensored

#: The compiled engine of each kind of device: its module and its class.
ENGINES = {
    "cpu": ("worker.network.engines.cpu.engine", "CpuEngine"),
    "cuda": ("worker.network.engines.triton.engine", "TritonEngine"),
}
#: The packages that compile: their own errors say what they cannot.
_COMPILERS = ("numba", "llvmlite", "triton")
#: What their errors of Python's own types say.
_CANNOT_COMPILE = ("Failed to find C compiler", "PassManager::run failed", "ptxas", "libcuda.so")


def choose_device(wanted: str) -> str:
    """The device to compute on: for ``auto`` the GPU where there is one, else the CPU.

    Raises
    ------
    FatalError
        A GPU is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FatalError("ASTRONN_STREAM_DEVICE is cuda, but torch sees no such GPU.")
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def open_engine(
    model: ApogeeBCNNCensored,
    *,
    mc_samples: int,
    seed: int,
    device: str = "cpu",
    precision: Precision = "auto",
) -> Engine:
    """The fastest engine that works on a device.

    That is a compiled one; where its compiler is missing or cannot compile, torch does it, which
    takes many times as long.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    precision
        Of the largest layer, see ``CpuEngine`` and ``TritonEngine``.

    Raises
    ------
    FatalError
        A GPU is wanted and there is none.
    Exception
        What has nothing to do with compiling: memory that is full, a device that fails.
    """
    device = choose_device(device)
    module, name = ENGINES[device]
    try:
        engine: Engine = getattr(import_module(module), name)(
            model, mc_samples=mc_samples, seed=seed, device=device, precision=precision
        )
    except Exception as error:
        if not _cannot_compile(error):
            raise
        logger.warning("action=open engine=torch: %s cannot be used: %r", name, error)
    else:
        return engine
    from worker.network.engines.torch_engine import TorchEngine

    return TorchEngine(model, mc_samples=mc_samples, seed=seed, device=device)


def _cannot_compile(error: Exception) -> bool:
    """Whether an error says that a compiler is missing, or cannot compile here."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return (
        isinstance(error, ImportError | subprocess.CalledProcessError)
        or not packages.isdisjoint(_COMPILERS)
        or any(each in str(error) for each in _CANNOT_COMPILE)
    )


def every_engine(
    model: ApogeeBCNNCensored, *, mc_samples: int, seed: int, device: str
) -> Iterator[Engine]:
    """Each engine that works on a device in each precision, once; for comparing them.

    Torch's comes first, then those that :func:`open_engine` may give. Each is opened when its turn
    comes, so that the first one alone costs nothing more.
    """
    from worker.network.engines.torch_engine import TorchEngine

    engine: Engine = TorchEngine(model, mc_samples=mc_samples, seed=seed, device=device)
    yield engine
    names = {engine.name}
    precisions: tuple[Precision, ...] = ("auto", "float32")
    for precision in precisions:
        engine = open_engine(
            model, mc_samples=mc_samples, seed=seed, device=device, precision=precision
        )
        if engine.name not in names:
            names.add(engine.name)
            yield engine

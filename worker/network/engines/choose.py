"""Which engine serves a device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from worker.errors import FatalError
from worker.network.engines.engine import Engine, Precision, logger
from worker.network.model import ApogeeBCNNCensored


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

    That is a compiled one, numba's on a CPU and Triton's on a GPU; where its compiler is missing
    or cannot compile, torch does it.

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
    """
    device = choose_device(device)
    try:
        if device == "cpu":
            from worker.network.engines.cpu.engine import CpuEngine

            return CpuEngine(model, mc_samples=mc_samples, seed=seed, precision=precision)
        from worker.network.engines.triton.engine import TritonEngine

        return TritonEngine(
            model, mc_samples=mc_samples, seed=seed, device=device, precision=precision
        )
    except Exception as error:  # noqa: BLE001 - whatever keeps numba or Triton from compiling here
        compiler = "numba" if device == "cpu" else "triton"
        logger.warning("action=open engine=torch: %s cannot be used: %r", compiler, error)
    from worker.network.engines.torch_engine import TorchEngine

    return TorchEngine(model, mc_samples=mc_samples, seed=seed, device=device)


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

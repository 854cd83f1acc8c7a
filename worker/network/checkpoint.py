"""Reading weights: Astra's PyTorch layout, ``{"model_state_dict": {...}}``.

The file is read with ``weights_only=True``, which admits tensors and plain containers alone.
Widths come from the weights; every key and shape is checked, and the error says which differ.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import FatalError
from worker.spectra.pixels import N_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

    from worker.network.model import ApogeeBCNNCensored, Architecture

_MASK_KEY = re.compile(r"aspcap_masks\.(\d+)")


@lru_cache(maxsize=8)
def weights_sha256(path: Path) -> str:
    """The SHA-256 of a weights file, which names its weights in every row; needs no torch.

    Raises
    ------
    FatalError
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FatalError(f"The weights {path} cannot be read: {error.strerror}.") from error


def read_checkpoint(path: Path) -> ApogeeBCNNCensored:
    """The network with the weights of a file, ready for inference on the CPU.

    Raises
    ------
    FatalError
        The file cannot be read, holds no such network, or keys or shapes differ from it.
    """
    from worker.network.model import ApogeeBCNNCensored

    state = _read_state(path)
    model = ApogeeBCNNCensored(_architecture(path, state))
    _check(path, state, model.state_dict())
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under our names: ASPCAP masks become windows of pixel indices."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FatalError(f"The weights {path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        # Damaged files raise nearly anything. torch's own text advises to lower the guard.
        raise FatalError(
            f"{path.name} is not a PyTorch checkpoint of plain tensors; it was not loaded."
        ) from error
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and torch.is_tensor(value) for key, value in state.items()
    ):
        raise FatalError(f'{path.name} holds no named tensors under "model_state_dict".')
    for key, value in state.items():
        if _MASK_KEY.fullmatch(key) and value.shape != (N_PIXELS,):
            raise FatalError(
                f"{path.name} does not fit ApogeeBCNNCensored: {key} has shape "
                f"{tuple(value.shape)}, not ({N_PIXELS},)."
            )
    return {
        _MASK_KEY.sub(r"window_\1", key): (
            torch.nonzero(value.bool()).flatten() if _MASK_KEY.fullmatch(key) else value
        )
        for key, value in state.items()
    }


def _architecture(path: Path, state: dict[str, Tensor]) -> Architecture:
    from worker.network.model import N_ELEMENTS, Architecture

    def width(key: str, axis: int = 0) -> int:
        if key not in state or state[key].ndim <= axis:
            raise FatalError(f"{path.name} is no ApogeeBCNNCensored: it lacks {key}.")
        return int(state[key].shape[axis])

    elements = range(N_ELEMENTS)
    return Architecture(
        dense=(width("dense_1.weight"), width("dense_2.weight")),
        windows=tuple(width(f"window_{i}") for i in elements),
        element1=tuple(width(f"elem_dense1.{i}.weight") for i in elements),
        element2=tuple(width(f"elem_dense2.{i}.weight") for i in elements),
    )


def _check(path: Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    problems = [f"{key} is missing" for key in sorted(wanted.keys() - state.keys())]
    problems += [f"{key} is unknown" for key in sorted(state.keys() - wanted.keys())]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted.keys() & state.keys()
        if state[key].shape != wanted[key].shape
    ]
    problems += [
        f"{key} has values that are not finite"
        for key in state
        if state[key].is_floating_point() and not bool(state[key].isfinite().all())
    ]
    if problems:
        raise FatalError(
            f"{path.name} does not fit ApogeeBCNNCensored: {'; '.join(sorted(problems))}."
        )

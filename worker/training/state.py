"""The state of a training between two epochs, so that it can go on after an interruption."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from worker.atomic_file import replacing
from worker.errors import FatalError

Losses = list[dict[str, float]]


@dataclass
class TrainingState:
    """What a training needs to go on, all of it tensors and plain containers.

    There is no state of random numbers: they follow from the seed and the epoch.

    Attributes
    ----------
    digest
        Of settings and data; a state of another training is of no use.
    epoch
        Epochs done.
    losses
        For each epoch ``training``, ``validation`` and ``learning_rate``.
    model, optimiser
        Their states after the last epoch.
    best
        The weights after the epoch of the lowest validation loss, ``best_epoch``.
    """

    digest: str
    epoch: int = 0
    losses: Losses = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch


def write_state(path: Path, state: TrainingState) -> None:
    """Write a state in place of an older one, whole or not at all.

    Raises
    ------
    FatalError
        It cannot be written.
    """
    try:
        with replacing(path) as temporary:
            torch.save(asdict(state), temporary)
    except RuntimeError as error:
        raise FatalError(f"The training state {path} cannot be written: {error}.") from error


def read_state(path: Path, digest: str) -> TrainingState | None:
    """The state of this very training; None where there is none.

    Raises
    ------
    FatalError
        The file belongs to a training with other settings or data, or cannot be read.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = TrainingState(**content)
    except Exception as error:  # damaged files raise nearly anything
        raise FatalError(
            f"The training state {path} cannot be read; delete it to begin anew."
        ) from error
    if state.digest != digest:
        raise FatalError(
            f"{path} is the state of an interrupted training with other settings or spectra; "
            "repeat that command to go on with it, or delete the file to begin anew."
        )
    return state

"""Training: epochs of stochastic passes, until the validation loss no longer falls."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.errors import FatalError
from worker.network.model import ApogeeBCNNCensored
from worker.training.data import (
    Indices,
    TrainingSet,
    chunks,
    input_mean,
    label_scales,
    learnable,
    shuffled_batches,
)
from worker.training.forward import training_pass
from worker.training.loss import robust_loss
from worker.training.masks import training_masks
from worker.training.new_network import new_network
from worker.training.state import Losses, TrainingState, read_state, write_state

#: The rate rises to its peak over this part of the steps, then falls along half a cosine.
_WARM_UP = 0.05
_LAST_RATE = 0.01
#: Gradients are shortened to this length; at the peak of the rate a rare one is far longer.
_LONGEST_GRADIENT = 5.0
_VALIDATION_BATCH = 256
#: Stands for the epoch in the masks of every validation; no training has as many epochs.
_VALIDATION = 2**32 - 1


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    ``patience`` is the number of epochs without a lower validation loss after which training
    ends; ``precision`` is ``float32`` or ``bfloat16``; ``dense`` are the widths of the
    full-spectrum branch.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0
    validation: float = 0.1
    patience: int = 10
    device: str = "cpu"
    precision: str = "float32"
    dense: tuple[int, int] = (192, 96)


@dataclass(frozen=True)
class Trained:
    """A network with the weights of its best epoch, and the losses of all."""

    model: ApogeeBCNNCensored
    losses: Losses
    best_epoch: int


@dataclass(frozen=True)
class Progress:
    """How far a training is: ``step`` of ``steps`` in an epoch, and the mean loss so far."""

    epoch: int
    step: int
    steps: int
    loss: float


#: Told after every step, and after every epoch (with the losses so far).
OnStep = Callable[[Progress], None]
OnEpoch = Callable[[Losses], None]


def choose_precision(wanted: str, device: str) -> str:
    """The type to compute in: for ``auto`` bfloat16 where the device has instructions for it."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.exists() else ""
    return "bfloat16" if "avx512_bf16" in text or "amx_bf16" in text else "float32"


def train(
    data: TrainingSet,
    split: tuple[Indices, Indices],
    settings: TrainingSettings,
    state_path: Path,
    on_step: OnStep,
    on_epoch: OnEpoch,
) -> Trained:
    """Train a network, going on with the state of an interrupted training where there is one.

    Adam on the robust loss, one stochastic pass of dropout for each spectrum. The validation
    loss is that of one stochastic pass too, with the same masks after every epoch: without
    dropout the network is another one, whose variances were never fitted. Labels that no spectrum
    of the training part has are left out of both, and their branches stay as they were drawn.

    Raises
    ------
    FatalError
        The state belongs to another training, or the loss is no number any more.
    UsageError
        One of the parts has no label that can be learnt.
    """
    trainer = _Trainer(data, split, settings, state_path)
    while trainer.goes_on():
        trainer.run_epoch(on_step)
        on_epoch(trainer.state.losses)
    return trainer.trained()


def learning_rate(step: int, n_steps: int, peak: float) -> float:
    """The learning rate of a step: a linear rise, then half a cosine down to a hundredth."""
    rise = max(1, round(_WARM_UP * n_steps))
    if step < rise:
        return peak * (step + 1) / rise
    fall = (step - rise) / max(1, n_steps - rise)
    return peak * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * fall)) / 2)


class _Trainer:
    """A network in training, its optimiser, and its data in normalised units."""

    def __init__(
        self,
        data: TrainingSet,
        split: tuple[Indices, Indices],
        settings: TrainingSettings,
        state_path: Path,
    ) -> None:
        self._data, self._settings, self._state_path = data, settings, state_path
        self._training, self._validation = split
        self._device = torch.device(settings.device)
        self._type = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        labels = learnable(data.labels, split)
        mean, std = label_scales(labels[self._training])
        self._model = new_network(settings.seed, settings.dense)
        self._model.labels_mean.copy_(torch.from_numpy(mean))
        self._model.labels_std.copy_(torch.from_numpy(std))
        self._labels = torch.from_numpy((labels - mean) / std).float()
        self._variances = torch.from_numpy((data.e_labels / std) ** 2).float()
        digest = _digest(data, settings)
        previous = read_state(state_path, digest)
        self.state = previous or TrainingState(digest)
        if previous is None:
            self._model.input_mean.copy_(torch.from_numpy(input_mean(data, self._training)))
        else:
            self._model.load_state_dict(previous.model)
        self._model.to(self._device)
        self._mean = self._model.input_mean.float()
        self._optimiser = torch.optim.Adam(
            self._model.parameters(), lr=settings.learning_rate, fused=True
        )
        if previous is not None:
            self._optimiser.load_state_dict(previous.optimiser)

    def goes_on(self) -> bool:
        """Whether there is another epoch."""
        done = self.state.epoch >= self._settings.epochs
        return not done and self.state.epochs_without_gain < self._settings.patience

    def run_epoch(self, on_step: OnStep) -> None:
        """One epoch and its validation; the state is on disk afterwards."""
        settings, epoch = self._settings, self.state.epoch
        batches = shuffled_batches(self._training, settings.batch_size, settings.seed, epoch)
        total = 0.0
        for step, batch in enumerate(batches):
            position = epoch * len(batches) + step
            rate = learning_rate(position, settings.epochs * len(batches), settings.learning_rate)
            total += self._step(batch, epoch, step, rate) * len(batch)
            seen = sum(len(each) for each in batches[: step + 1])
            on_step(Progress(epoch, step + 1, len(batches), total / seen))
        self._end_epoch(total / len(self._training), rate)

    def _step(self, batch: Indices, epoch: int, step: int, rate: float) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad()
        loss = self._loss(batch, self._masks(batch, epoch, step))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _LONGEST_GRADIENT)
        self._optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FatalError(
                f"The training loss became {value} in epoch {epoch + 1}; try a lower "
                "--learning-rate."
            )
        return value

    def _masks(self, batch: Indices, epoch: int, step: int) -> dict[str, Tensor]:
        sites = self._model.architecture.dropout_sites
        place = (self._settings.seed, epoch, step)
        return training_masks(place, len(batch), sites, self._device)

    def _loss(self, batch: Indices, masks: dict[str, Tensor]) -> Tensor:
        flux = self._on_device(torch.from_numpy(self._data.spectra(batch)))
        spectra = (flux - self._mean).to(self._type)
        predicted, log_variance = training_pass(self._model, spectra, masks)
        rows = torch.from_numpy(batch)
        known, variance = (self._on_device(x[rows]) for x in (self._labels, self._variances))
        return robust_loss(predicted, log_variance, known, variance)

    def _on_device(self, values: Tensor) -> Tensor:
        if self._device.type == "cpu":
            return values
        return values.pin_memory().to(self._device, non_blocking=True)

    def _end_epoch(self, training_loss: float, rate: float) -> None:
        state = self.state
        state.epoch += 1
        state.losses.append(
            {
                "training": training_loss,
                "validation": self._validation_loss(),
                "learning_rate": rate,
            }
        )
        state.model = _on_cpu(self._model.state_dict())
        state.optimiser = self._optimiser.state_dict()
        validation = [losses["validation"] for losses in state.losses]
        if state.best_epoch == 0 or validation[-1] < validation[state.best_epoch - 1]:
            state.best, state.best_epoch = state.model, state.epoch
        write_state(self._state_path, state)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """The mean over spectra with each batch weighted by its valid labels."""
        valid = self._labels.isfinite().sum(dim=1).numpy()
        parts = [
            (float(self._loss(batch, self._masks(batch, _VALIDATION, step))), valid[batch].sum())
            for step, batch in enumerate(chunks(self._validation, _VALIDATION_BATCH))
        ]
        losses, weights = np.array(parts).T
        return float(np.average(losses, weights=weights))

    def trained(self) -> Trained:
        """The network of the best epoch, ready for inference on the CPU."""
        model = self._model.cpu()
        model.load_state_dict(self.state.best)
        model.eval().requires_grad_(False)
        return Trained(model, self.state.losses, self.state.best_epoch)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.detach().cpu().clone() for name, values in state.items()}


def _digest(data: TrainingSet, settings: TrainingSettings) -> str:
    """What must be the same for a training to go on."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update("\n".join(data.keys).encode())
    for values in (data.labels, data.e_labels):
        digest.update(np.ascontiguousarray(values).tobytes())
    for chunk in chunks(np.arange(len(data)), _VALIDATION_BATCH):
        digest.update(data.spectra(chunk).tobytes())
    return digest.hexdigest()

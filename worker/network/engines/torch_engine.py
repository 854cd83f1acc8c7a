"""Monte Carlo dropout by torch alone, on any device: the passes of a spectrum in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.array_types import Floats
from worker.network.engines.engine import Engine, Flux, summarise
from worker.network.engines.torch_masks import TorchMasks
from worker.network.masks import KEEP_SCALE
from worker.network.model import masked

#: Passes computed together, a constant of the result's last bits. More gain nothing on a CPU,
#: where fresh memory for larger arrays costs more than it saves.
_CPU_PASSES, _PASSES = 50, 128


class TorchEngine(Engine):
    """Everything ahead of the first dropouts once per spectrum, the rest pass-batched.

    Spectra do not share an operation: the result of one is the same to the last bit whatever
    else is in its batch.
    """

    name = "torch"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._draw = TorchMasks(self.model.architecture, self.device)

    @torch.inference_mode()
    def _infer(self, flux: Flux, mask_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        return [self._spectrum(row, key) for row, key in zip(flux, mask_keys, strict=True)]

    def _spectrum(self, flux: Flux, mask_key: str) -> tuple[Floats, Floats]:
        spectrum = torch.from_numpy(flux[None]).to(self.device)
        shared = self.model.share(self.model.normalise_input(spectrum))
        step = _CPU_PASSES if self.device.type == "cpu" else _PASSES
        blocks = [
            self.model.finish(shared, masked(self._masks(mask_key, first, first + step)))
            for first in range(0, self.mc_samples, step)
        ]
        labels, log_variances = (
            torch.cat(part).double().cpu().numpy() for part in zip(*blocks, strict=True)
        )
        return summarise(labels, log_variances)

    def _masks(self, mask_key: str, first: int, last: int) -> dict[str, Tensor]:
        passes = range(first, min(last, self.mc_samples))
        kept = self._draw(self.seed, mask_key, passes)
        return {site: mask * KEEP_SCALE for site, mask in kept.items()}

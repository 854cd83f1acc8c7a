"""Monte Carlo dropout the slow, obvious way: the oracle of the other engines."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from worker.array_types import Floats
from worker.network.engines.engine import Engine, Flux, summarise
from worker.network.masks import KEEP_SCALE, dropout_masks
from worker.network.model import ApogeeBCNNCensored, masked


class ReferenceEngine(Engine):
    """Each pass of each spectrum alone through the whole network, in double precision."""

    name = "reference"

    def __init__(self, model: ApogeeBCNNCensored, *, mc_samples: int, seed: int) -> None:
        super().__init__(model, mc_samples=mc_samples, seed=seed)
        self._double = copy.deepcopy(model).double()

    @torch.inference_mode()
    def _infer(self, flux: Flux, mask_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        return [self._spectrum(row, key) for row, key in zip(flux, mask_keys, strict=True)]

    def _spectrum(self, flux: Flux, mask_key: str) -> tuple[Floats, Floats]:
        spectrum = torch.from_numpy(flux[None]).double() - self.model.input_mean
        passes = [self._pass(spectrum, mask_key, number) for number in range(self.mc_samples)]
        labels, log_variances = (np.concatenate(part) for part in zip(*passes, strict=True))
        return summarise(labels, log_variances)

    def _pass(self, spectrum: torch.Tensor, mask_key: str, number: int) -> tuple[Floats, Floats]:
        kept = dropout_masks(
            self.seed, mask_key, range(number, number + 1), self.model.architecture
        )
        scaled = {site: torch.from_numpy(mask * KEEP_SCALE) for site, mask in kept.items()}
        labels, log_variances = self._double(spectrum, masked(scaled))
        return labels.numpy(), log_variances.numpy()

"""Monte Carlo dropout: the one interface of the engines, and which of them serves a device.

Every engine draws the same masks (``worker.network.masks``) and computes the same statistics;
they differ in speed and in the last bits of their arithmetic.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.network.model import ApogeeBCNNCensored
from worker.spectra.pixels import N_PIXELS

logger = logging.getLogger(__name__)

Flux = NDArray[np.float32]
Precision = Literal["auto", "float32", "bfloat16"]

#: Values of the first convolution beyond this could overflow on their way; labels would mean
#: nothing.
LARGEST_CONVOLVED = 1e25


class Engine(ABC):
    """Monte Carlo dropout of one network on one device.

    The result of a spectrum is the same to the last bit whatever else is in its batch, in
    whatever order, and on however many threads.
    """

    #: The engine as logs and tables name it.
    name: str

    def __init__(
        self, model: ApogeeBCNNCensored, *, mc_samples: int, seed: int, device: str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.mc_samples = mc_samples
        self.seed = seed

    def __call__(self, flux: Flux, mask_keys: Sequence[str]) -> tuple[Floats, Floats]:
        """Labels of continuum-normalised spectra.

        Parameters
        ----------
        flux
            ``(n, 7514)`` continuum-normalised flux.
        mask_keys
            One for each spectrum.

        Returns
        -------
        raw_labels, raw_e_labels
            ``(n, 22)`` each, in the labels' units: means over the passes, and total
            uncertainties before the noise model.

        Raises
        ------
        ValueError
            The shapes do not fit.
        """
        if flux.shape != (len(mask_keys), N_PIXELS):
            raise ValueError(f"flux of shape {flux.shape} for {len(mask_keys)} spectra")
        pairs = self._infer(flux, mask_keys)
        means, stds = (np.array(part).reshape(len(pairs), -1) for part in zip(*pairs, strict=True))
        mean = self.model.labels_mean.cpu().numpy()
        std = self.model.labels_std.cpu().numpy()
        return means * std + mean, stds * std

    def warm_up(self) -> None:
        """Infer one simulated spectrum, so that the first real one does not wait; log the time."""
        started = time.perf_counter()
        with np.errstate(all="ignore"):  # weights that overflow are told of with real spectra
            self(np.ones((1, N_PIXELS), np.float32), ["warm-up"])
        seconds = time.perf_counter() - started
        logger.info("action=warm_up engine=%s seconds=%.1f", self.name, seconds)

    @abstractmethod
    def _infer(self, flux: Flux, mask_keys: Sequence[str]) -> list[tuple[Floats, Floats]]:
        """Mean and total standard deviation of each spectrum, in normalised units."""


def summarise(labels: Floats, log_variances: Floats) -> tuple[Floats, Floats]:
    """Mean and total standard deviation over passes, in normalised units.

    Parameters
    ----------
    labels, log_variances
        ``(..., passes, 22)``.

    Returns
    -------
    mean, std
        ``(..., 22)``: ``std = sqrt(exp(mean log-variance) + unbiased variance of the labels)``
        (Leung & Bovy 2019, section 2.2; their model variance is the biased one).
    """
    variance = np.exp(log_variances.mean(axis=-2)) + labels.var(axis=-2, ddof=1)
    return labels.mean(axis=-2), np.sqrt(variance)

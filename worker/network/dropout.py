"""Monte Carlo dropout: many stochastic passes per spectrum, their mean and their spread.

The masks belong to the spectrum. They come from the counter-based generator Philox 4x64-10,
keyed by the seed and the spectrum's natural key, so the same spectrum gets the same masks in
any batch, on any worker, on every try. ``docs/decisions.md`` says why; ``dropout_masks`` is
the definition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.errors import FatalError
from worker.network.model import ApogeeBCNNCensored, masked
from worker.spectra.pixels import N_PIXELS

_T = TypeVar("_T")

RATE = 0.3
#: A unit is dropped when its 16 random bits are below this: 0.3 to within 4e-6.
_THRESHOLD = round(RATE * 2**16)
_KEEP_SCALE = np.float32(1 / (1 - RATE))
#: Passes computed together, a constant of the result's last bits. On two cores 50 take 29 ms per
#: 100 passes of a spectrum, 100 take 49 ms (fresh memory for larger arrays costs more than it
#: saves), 10 take 73 ms.
_PASSES_AT_ONCE = 50


def dropout_masks(
    seed: int, natural_key: str, first: int, last: int, sites: Mapping[str, int]
) -> dict[str, NDArray[np.float32]]:
    """The dropout masks of passes ``first`` to ``last - 1`` of one spectrum.

    The key of the generator is the 16-byte BLAKE2b digest of ``"<seed>/<natural key>"`` in
    UTF-8, as two little-endian 64-bit words. Pass p reads the 16-bit numbers, low bits of each
    64-bit output first, of an independent stream with its counter at ``(0, 0, p, 0)``; the
    sites take their units from it one after the other. A unit is dropped when its number is
    below 19661.

    Returns
    -------
    dict
        For each site ``(passes, units)``: 0 where dropped, 1/0.7 where kept.
    """
    digest = hashlib.blake2b(f"{seed}/{natural_key}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype="<u8")
    n_units = sum(sites.values())
    numbers = np.empty((last - first, -(-n_units // 4)), dtype="<u8")
    for row, number in zip(numbers, range(first, last), strict=True):
        row[:] = np.random.Philox(key=key, counter=[0, 0, number, 0]).random_raw(row.size)
    keep = numbers.view("<u2")[:, :n_units] >= _THRESHOLD
    masks = np.multiply(keep, _KEEP_SCALE, dtype=np.float32)
    edges = np.cumsum(list(sites.values()))[:-1]
    return dict(zip(sites, np.split(masks, edges, axis=1), strict=True))


class McDropoutEngine:
    """Monte Carlo dropout of one network on one device.

    Everything ahead of the first dropouts is computed once per spectrum, and the passes of a
    spectrum go through the rest together. Spectra do not share an operation: the result of
    one is the same to the last bit whatever else is in its batch.
    """

    def __init__(
        self, model: ApogeeBCNNCensored, *, mc_samples: int, seed: int, device: str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.mc_samples = mc_samples
        self.seed = seed

    def __call__(
        self, flux: NDArray[np.float32], natural_keys: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Labels of continuum-normalised spectra.

        Parameters
        ----------
        flux
            ``(n, 7514)`` continuum-normalised flux.
        natural_keys
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
        if flux.shape != (len(natural_keys), N_PIXELS):
            raise ValueError(f"flux of shape {flux.shape} for {len(natural_keys)} spectra")
        pairs = [self._infer(row, key) for row, key in zip(flux, natural_keys, strict=True)]
        means, stds = (np.array(column).reshape(len(pairs), -1) for column in _columns(pairs))
        mean = self.model.labels_mean.cpu().numpy()
        std = self.model.labels_std.cpu().numpy()
        return means * std + mean, stds * std

    @torch.inference_mode()
    def _infer(
        self, flux: NDArray[np.float32], natural_key: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and total standard deviation of one spectrum, in normalised units."""
        spectrum = torch.from_numpy(flux[None]).to(self.device)
        shared = self.model.share(self.model.normalise_input(spectrum))
        blocks = [
            self.model.finish(shared, masked(self._masks(natural_key, first)))
            for first in range(0, self.mc_samples, _PASSES_AT_ONCE)
        ]
        labels, log_variances = (torch.cat(part).double().cpu() for part in _columns(blocks))
        return summarise(labels.numpy(), log_variances.numpy())

    def _masks(self, natural_key: str, first: int) -> dict[str, Tensor]:
        last = min(first + _PASSES_AT_ONCE, self.mc_samples)
        sites = self.model.architecture.dropout_sites
        masks = dropout_masks(self.seed, natural_key, first, last, sites)
        return {site: torch.from_numpy(mask).to(self.device) for site, mask in masks.items()}


def _columns(pairs: Sequence[tuple[_T, _T]]) -> tuple[list[_T], list[_T]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def summarise(
    labels: NDArray[np.float64], log_variances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and total standard deviation over passes, in normalised units.

    Parameters
    ----------
    labels, log_variances
        ``(passes, 22)``.

    Returns
    -------
    mean, std
        ``(22,)``: ``std = sqrt(exp(mean log-variance) + unbiased variance of the labels)``
        (Leung & Bovy 2019, section 2.2; their model variance is the biased one).
    """
    variance = np.exp(log_variances.mean(axis=0)) + labels.var(axis=0, ddof=1)
    return labels.mean(axis=0), np.sqrt(variance)


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

"""The dropout masks of ``worker.network.masks``, made by torch on the device that needs them."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.network.masks import NUMBERS_PER_BLOCK, THRESHOLD, mask_sites, site_blocks
from worker.network.model import Architecture
from worker.network.philox import MULTIPLIERS, philox_key, round_keys

_WORD = 0xFFFFFFFF


def torch_philox(words: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-7 of int64 tensors that hold 32-bit words, broadcast against each other.

    Products of two 32-bit words wrap around in int64; their 64 bits are right all the same.
    """
    a, b, c, d = words
    for first, second in round_keys(key):
        left, right = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, c = _high(right) ^ b ^ first, _high(left) ^ d ^ second
        b, d = right & _WORD, left & _WORD
    return a, b, c, d


def _high(product: Tensor) -> Tensor:
    return (product >> 32) & _WORD


class TorchMasks:
    """Makes the masks of one network's sites on one device."""

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        sites = mask_sites(architecture)
        self._blocks = site_blocks(sites)
        self._device = device
        self._sites = {
            name: (site.number, torch.from_numpy(site.numbers).to(device))
            for name, site in sites.items()
        }

    def __call__(self, seed: int, mask_key: str, passes: range) -> dict[str, Tensor]:
        """For each dropout site ``(passes, units)`` bool: which units are kept."""
        key = philox_key(seed, mask_key)
        kept = {site: self._kept(key, site, passes) for site in self._blocks}
        return {name: kept[site][:, numbers] for name, (site, numbers) in self._sites.items()}

    def _kept(self, key: tuple[int, int], site: int, passes: range) -> Tensor:
        block = torch.arange(self._blocks[site], device=self._device)[None]
        number = torch.arange(passes.start, passes.stop, device=self._device)[:, None]
        constant = torch.full_like(block, site)
        words = torch_philox((block, constant, number, torch.zeros_like(block)), key)
        shape = (len(passes), self._blocks[site])
        halves = [half.expand(shape) for word in words for half in (word & 0xFFFF, word >> 16)]
        numbers = torch.stack(halves, dim=-1)
        assert numbers.shape[-1] == NUMBERS_PER_BLOCK  # noqa: S101 - two halves of four words
        return numbers.flatten(1) >= THRESHOLD

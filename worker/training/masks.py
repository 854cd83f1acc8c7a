"""Random dropout masks for training: one pass for each spectrum of a batch.

They depend on the seed, the epoch and the number of the batch alone, so a training that was
interrupted goes on with the masks that it would have had.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worker.network.masks import RATE

#: A unit is dropped when its 16 random bits, read as a signed number, are below this.
_THRESHOLD = round(RATE * 2**16) - 2**15


def training_masks(
    place: tuple[int, int, int], n_spectra: int, sites: Mapping[str, int], device: torch.device
) -> dict[str, Tensor]:
    """Which units of each dropout site are kept, ``(n_spectra, units)`` bool.

    Sixteen bits for each unit out of NumPy's SFC64 take a tenth of the time of torch's own
    Bernoulli numbers on the CPU; a GPU draws its own.

    Parameters
    ----------
    place
        Seed, epoch and number of the batch.
    """
    n_units = sum(sites.values())
    if device.type == "cpu":
        words = np.random.SFC64(place).random_raw(-(-n_spectra * n_units // 4))
        bits = torch.from_numpy(words.view(np.int16)[: n_spectra * n_units])
    else:
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
        bits = torch.randint(
            -(2**15),
            2**15,
            (n_spectra * n_units,),
            dtype=torch.int16,
            device=device,
            generator=torch.Generator(device).manual_seed(seed),
        )
    kept = (bits >= _THRESHOLD).reshape(n_spectra, n_units)
    return dict(zip(sites, torch.split(kept, list(sites.values()), dim=1), strict=True))

"""A small network whose widths fill no tile of the kernels, and what the kernels draw for it."""

from __future__ import annotations

import torch

from worker.network.model import N_ELEMENTS, ApogeeBCNNCensored, Architecture
from worker.spectra.pixels import N_PIXELS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

ARCHITECTURE = Architecture(
    dense=(70, 21),
    windows=(40, 3, 65) + (7,) * (N_ELEMENTS - 3),
    element1=(33, 4, 9) + (8,) * (N_ELEMENTS - 3),
    element2=(17, 1, 5) + (3,) * (N_ELEMENTS - 3),
)


def odd_network() -> ApogeeBCNNCensored:
    """The network with weights from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(20240607)
        model = ApogeeBCNNCensored(ARCHITECTURE)
        model.input_mean.uniform_(0.9, 1.1)
        model.labels_std.uniform_(0.5, 2)
        for element in range(N_ELEMENTS):
            model.window(element).random_(N_PIXELS)
    return model.eval()

"""The network to train, before it has learnt anything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from worker.labels import LABELS
from worker.network.model import ApogeeBCNNCensored, Architecture
from worker.spectra.windows import element_window

#: Elements whose windows are half of the spectrum get wider branches.
_WIDE = ("C", "N")


def new_network(seed: int, dense: tuple[int, int] = (192, 96)) -> ApogeeBCNNCensored:
    """A network with random weights and the DR17 windows.

    Weights are normal with the variances of He et al. (2015), as in astroNN, where Keras cuts
    the distribution off at two sigma; biases are zero. The heads begin near zero, else the
    first steps explain large wrong labels by large variances, and labels whose variance is
    large then learn nothing for a long time.
    """
    elements = [label.element for label in LABELS if label.element is not None]
    windows = [np.flatnonzero(element_window(element)) for element in elements]
    network = ApogeeBCNNCensored(
        Architecture(
            dense=dense,
            windows=tuple(len(window) for window in windows),
            element1=tuple(256 if element in _WIDE else 32 for element in elements),
            element2=tuple(64 if element in _WIDE else 16 for element in elements),
        )
    )
    for element, window in enumerate(windows):
        network.window(element).copy_(torch.from_numpy(window))
    _draw_weights(network, torch.Generator().manual_seed(seed))
    return network


def _draw_weights(network: ApogeeBCNNCensored, generator: torch.Generator) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    for head in _heads(network):
        nn.init.normal_(head.weight, std=0.01, generator=generator)


def _heads(network: ApogeeBCNNCensored) -> Iterator[nn.Linear]:
    yield network.dense_teffloggfeh
    yield network.dense_teffloggfeh_var
    yield network.dense_aux_fullspec
    for layer in [*network.elem_dense_out, *network.elem_dense_var]:
        assert isinstance(layer, nn.Linear)  # noqa: S101 - tells the type checker what it is
        yield layer

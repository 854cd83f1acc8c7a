"""ApogeeBCNNCensored: the Bayesian convolutional network with censored element branches.

The network of Leung & Bovy (2019, MNRAS 483, 3255), in the layout of parameters that Astra's
PyTorch port uses. A full-spectrum branch (two convolutions, two dense layers) gives Teff,
log g, [Fe/H] and two auxiliary features; nineteen element branches, each seeing the pixels of
its element's ASPCAP window alone, give the other abundances. Every label has a log-variance.

Dropout is not a layer here: ``finish`` asks a function for it at five sites, so that the same
code serves without dropout, with given masks and with many passes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.labels import ELEMENT_POSITIONS, FULL_SPECTRUM_POSITIONS, LABELS
from worker.spectra.pixels import N_PIXELS

N_ELEMENTS = len(ELEMENT_POSITIONS)
_N_AUXILIARY = 2
FILTERS = (2, 4)
KERNEL = 8
POOL = 4
#: 'same' padding of an even kernel: three pixels left, four right.
PADDING = ((KERNEL - 1) // 2, KERNEL // 2)
_CONVOLVED = (FILTERS[0], N_PIXELS)
N_POOLED = N_PIXELS // POOL * FILTERS[1]

#: A dropout site's name, and what comes to it, to what leaves it.
Dropout = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Architecture:
    """The widths of a network, as read from its weights.

    Attributes
    ----------
    dense
        Hidden widths of the full-spectrum branch; (192, 96) in Astra's port.
    windows
        Number of pixels in each element's window.
    element1, element2
        Hidden widths of each element branch.
    """

    dense: tuple[int, int]
    windows: tuple[int, ...]
    element1: tuple[int, ...]
    element2: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Number of weights in the layers whose widths these are."""
        layers = [(N_POOLED, self.dense[0]), self.dense]
        layers += [*zip(self.windows, self.element1, strict=True)]
        layers += [*zip(self.element1, self.element2, strict=True)]
        return sum(inputs * outputs for inputs, outputs in layers)

    @property
    def dropout_sites(self) -> dict[str, int]:
        """Each dropout site and its number of units, in the order of the random stream."""
        sites = {
            "conv1": FILTERS[0] * N_PIXELS,
            "pool": N_POOLED,
            "dense_1": self.dense[0],
        }
        sites |= {f"elem_dense1.{i}": width for i, width in enumerate(self.element1)}
        sites |= {f"elem_dense2.{i}": width for i, width in enumerate(self.element2)}
        return sites


@dataclass(frozen=True)
class Shared:
    """What is the same in every pass: all that lies ahead of the first dropout of each branch.

    ``convolved`` is ``(n, 2, 7514)``, each of ``elements`` ``(n, width)``.
    """

    convolved: Tensor
    elements: tuple[Tensor, ...]


def no_dropout(site: str, values: Tensor) -> Tensor:  # noqa: ARG001 - the form of a Dropout
    """Let everything pass: the deterministic network."""
    return values


class ApogeeBCNNCensored(nn.Module):
    """The network. Inputs are normalised flux less ``input_mean``, ``(n, 7514)`` float32."""

    input_mean: Tensor
    labels_mean: Tensor
    labels_std: Tensor
    output_order: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        dense_1, dense_2 = architecture.dense
        self.conv1 = nn.Conv1d(1, FILTERS[0], KERNEL)
        self.conv2 = nn.Conv1d(FILTERS[0], FILTERS[1], KERNEL)
        self.dense_1 = nn.Linear(N_POOLED, dense_1)
        self.dense_2 = nn.Linear(dense_1, dense_2)
        self.dense_teffloggfeh = nn.Linear(dense_2, len(FULL_SPECTRUM_POSITIONS))
        self.dense_teffloggfeh_var = nn.Linear(dense_2, len(FULL_SPECTRUM_POSITIONS))
        self.dense_aux_fullspec = nn.Linear(dense_2, _N_AUXILIARY)
        joint = _N_AUXILIARY + len(FULL_SPECTRUM_POSITIONS)
        self.elem_dense1 = _layers(architecture.windows, architecture.element1)
        self.elem_dense2 = _layers(architecture.element1, architecture.element2)
        heads = [width + joint for width in architecture.element2]
        self.elem_dense_out = _layers(heads, [1] * N_ELEMENTS)
        self.elem_dense_var = _layers(heads, [1] * N_ELEMENTS)
        for element, size in enumerate(architecture.windows):
            self.register_buffer(f"window_{element}", torch.zeros(size, dtype=torch.long))
        self.register_buffer("input_mean", torch.zeros(N_PIXELS, dtype=torch.float64))
        self.register_buffer("labels_mean", torch.zeros(len(LABELS), dtype=torch.float64))
        self.register_buffer("labels_std", torch.ones(len(LABELS), dtype=torch.float64))
        order = torch.argsort(torch.tensor(FULL_SPECTRUM_POSITIONS + ELEMENT_POSITIONS))
        self.register_buffer("output_order", order, persistent=False)

    def window(self, element: int) -> Tensor:
        """The pixels of one element's window, as indices."""
        pixels = getattr(self, f"window_{element}")
        assert isinstance(pixels, Tensor)  # noqa: S101 - tells the type checker what a buffer is
        return pixels

    def normalise_input(self, flux: Tensor) -> Tensor:
        """Continuum-normalised flux ``(n, 7514)`` to what the network reads, float32."""
        return (flux.double() - self.input_mean).float()

    def forward(self, spectra: Tensor, dropout: Dropout = no_dropout) -> tuple[Tensor, Tensor]:
        """Normalised labels and log-variances, ``(n, 22)`` each; one pass."""
        return self.finish(self.share(spectra), dropout)

    def share(self, spectra: Tensor) -> Shared:
        """Everything ahead of the first dropout of each branch."""
        return Shared(
            functional.relu(self.conv1(functional.pad(spectra.unsqueeze(1), PADDING))),
            tuple(
                functional.relu(layer(spectra[:, self.window(element)]))
                for element, layer in enumerate(self.elem_dense1)
            ),
        )

    def finish(self, shared: Shared, dropout: Dropout) -> tuple[Tensor, Tensor]:
        """From the first dropouts to normalised labels and log-variances, ``(n, 22)`` each.

        With the shared part of one spectrum and a ``dropout`` that multiplies by masks of
        ``passes`` rows, each row of the result is a pass.
        """
        convolved = dropout("conv1", shared.convolved.flatten(1)).reshape(-1, *_CONVOLVED)
        convolved = functional.relu(self.conv2(functional.pad(convolved, PADDING)))
        # Position-major, as the Keras network that this port follows flattens it.
        pooled = functional.max_pool1d(convolved, POOL).transpose(1, 2).flatten(1)
        hidden = functional.relu(self.dense_1(dropout("pool", pooled)))
        hidden = functional.relu(self.dense_2(dropout("dense_1", hidden)))
        full_labels = self.dense_teffloggfeh(hidden)
        full_log_variance = self.dense_teffloggfeh_var(hidden)
        joint = torch.cat([self.dense_aux_fullspec(hidden), full_labels], dim=1)
        labels, log_variances = [full_labels], [full_log_variance]
        for element in range(N_ELEMENTS):
            values = dropout(f"elem_dense1.{element}", shared.elements[element])
            values = functional.relu(self.elem_dense2[element](values))
            values = torch.cat([dropout(f"elem_dense2.{element}", values), joint], dim=1)
            labels.append(self.elem_dense_out[element](values))
            log_variances.append(self.elem_dense_var[element](values))
        return (
            torch.cat(labels, dim=1)[:, self.output_order],
            torch.cat(log_variances, dim=1)[:, self.output_order],
        )


def masked(masks: Mapping[str, Tensor]) -> Dropout:
    """Dropout by given masks, ``(passes, units)`` per site, zero or one over the keep rate."""

    def dropout(site: str, values: Tensor) -> Tensor:
        return values * masks[site]

    return dropout


def _layers(
    inputs: tuple[int, ...] | list[int], outputs: tuple[int, ...] | list[int]
) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(i, o) for i, o in zip(inputs, outputs, strict=True))

"""The network's layers as the CPU's kernels read them: flat, tiled and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from worker.network.cpu_steps import POSITIONS, TILE, WINDOW_TILE
from worker.network.cpu_vectors import LANES
from worker.network.dense_layers import (
    Part,
    element_layers,
    hidden_layer,
    last_layers,
    numbers,
    window_layers,
    window_pixels,
)
from worker.network.masks import KEEP_SCALE, NUMBERS_PER_BLOCK
from worker.network.model import FILTERS, N_ELEMENTS, ApogeeBCNNCensored

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


class Layer(NamedTuple):
    """Dense layers side by side, in tiles.

    Attributes
    ----------
    tiles
        ``(n, 4)``: first input, number of inputs, where the weights begin, first output.
    weights
        For each tile all outputs of its first input, then of its second, and so on.
    biases
        By output. A tile that is not full writes zeros, or a bias, behind its outputs; the tile
        that comes next puts it right.
    """

    tiles: Indices
    weights: Singles
    biases: Singles


class FinishingLayers(NamedTuple):
    """What follows the first hidden layers; everything behind a dropout scaled by 1/0.7."""

    dense_2: Layer
    outputs: Layer
    elements_2: Layer
    shares: Layer
    n_elements_2: int


class FinishingSpace(NamedTuple):
    """Working space of one thread for some groups of sixteen passes."""

    hidden_2: Singles
    elements: Singles
    elements_2: Singles
    outputs: Singles
    shares: Singles


def tiled(parts: Iterable[Part], width: int) -> Layer:
    """Layers in tiles of ``width`` outputs."""
    tiles, blocks, at, parts = [], [], 0, list(parts)
    end = max(part.first_output + len(part.biases) for part in parts)
    biases = np.zeros(end + width)
    for part in parts:
        biases[part.first_output : part.first_output + len(part.biases)] = part.biases
        for output in range(0, len(part.biases), width):
            rows = part.weights[output : output + width]
            block = np.zeros((rows.shape[1], width))
            block[:, : len(rows)] = rows.T
            tiles.append((part.first_input, rows.shape[1], at, part.first_output + output))
            blocks.append(block.ravel())
            at += block.size
    return Layer(
        np.array(tiles, dtype=np.int64),
        np.concatenate(blocks).astype(np.float32),
        biases.astype(np.float32),
    )


def convolution(layer: nn.Conv1d, scale: float = 1.0) -> Singles:
    """A convolution's kernel and then its biases."""
    kernel, bias = numbers(layer)
    return np.concatenate([(kernel * scale).ravel(), bias]).astype(np.float32)


def pooled_to_hidden(model: ApogeeBCNNCensored) -> Singles:
    """The first dense layer, ``(units, 4 * POSITIONS)``: plane by plane, zeros for no position."""
    weights, _ = numbers(model.dense_1)
    by_plane = weights.reshape(len(weights), -1, FILTERS[1]).transpose(0, 2, 1) * KEEP_SCALE
    padded = np.zeros((len(weights), FILTERS[1], POSITIONS), dtype=np.float32)
    padded[:, :, : by_plane.shape[2]] = by_plane
    return padded.reshape(len(weights), -1)


def windows(model: ApogeeBCNNCensored) -> tuple[Indices, Layer]:
    """The pixels of all windows, and the elements' first layers, which read them."""
    return window_pixels(model), tiled(window_layers(model), WINDOW_TILE)


def finishing_layers(model: ApogeeBCNNCensored) -> FinishingLayers:
    """Everything behind the first hidden layers."""
    outputs, shares = last_layers(model)
    return FinishingLayers(
        dense_2=tiled([hidden_layer(model)], TILE),
        outputs=tiled([outputs], TILE),
        elements_2=tiled(element_layers(model), TILE),
        shares=tiled(shares, TILE),
        n_elements_2=sum(model.architecture.element2),
    )


def finishing_space(model: ApogeeBCNNCensored, groups: int) -> FinishingSpace:
    """Working space for ``groups`` times sixteen passes."""
    architecture = model.architecture
    n_outputs = 2 * (len(model.dense_teffloggfeh.bias) + N_ELEMENTS)

    def space(units: int) -> Singles:
        return np.zeros((units + TILE + NUMBERS_PER_BLOCK) * LANES, dtype=np.float32)

    return FinishingSpace(
        hidden_2=space(architecture.dense[1]),
        elements=space(sum(architecture.element1)),
        elements_2=space(sum(architecture.element2)),
        outputs=np.stack([space(n_outputs)] * groups),
        shares=np.stack([space(n_outputs)] * groups),
    )

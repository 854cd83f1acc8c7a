"""The network's layers as the CPU's kernels read them: flat, tiled and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.array_types import Singles
from worker.network.engines.cpu.products import COLUMNS, PANEL, TILE, WINDOW_TILE
from worker.network.engines.cpu.steps import POOLED_ROW, POSITIONS
from worker.network.engines.cpu.vectors import LANES
from worker.network.engines.dense_layers import (
    Dense,
    element_layers,
    hidden_layer,
    last_layers,
    numbers,
    output_order,
    window_layers,
    window_pixels,
)
from worker.network.masks import KEEP_SCALE, NUMBERS_PER_BLOCK
from worker.network.model import FILTERS, KERNEL, N_ELEMENTS, ApogeeBCNNCensored

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
        By output, and as many more as a tile has. A tile that is not full writes zeros, or a
        bias, behind its outputs; the tile that comes next puts it right.
    """

    tiles: Indices
    weights: Singles
    biases: Singles


class Product(NamedTuple):
    """The dense layer behind pooling, in panels that fit a core's first cache.

    Attributes
    ----------
    weights
        For each panel of inputs, for each tile of outputs, a word of each output for each word of
        inputs: float32, or the bits of two bfloat16.
    biases
        By output; there are zeros for those that fill the last tile.
    """

    weights: NDArray[np.generic]
    biases: Singles


class FinishingLayers(NamedTuple):
    """What follows the first hidden layers; everything behind a dropout scaled by 1/0.7."""

    dense_2: Layer
    outputs: Layer
    elements_2: Layer
    shares: Layer
    n_hidden: int
    n_elements_2: int
    order: Indices


class PoolingSpace(NamedTuple):
    """Working space of one thread up to the first hidden layer.

    Attributes
    ----------
    planes
        The convolved spectrum.
    thinned
        What a pass leaves of it; zeros for margins.
    pooled
        Rows of ``POOLED_ROW`` values, whole tiles of them: float32, or the bits of bfloat16.
    """

    planes: Singles
    thinned: Singles
    pooled: NDArray[np.generic]


class FinishingSpace(NamedTuple):
    """Working space of one thread for sixteen passes."""

    hidden: Singles
    hidden_2: Singles
    elements: Singles
    kept: Singles
    elements_2: Singles
    outputs: Singles
    shares: Singles


def tiled(parts: Iterable[Dense], width: int) -> Layer:
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


def _shared(layer: Layer, shares: int) -> list[Layer]:
    """A layer in parts of about as many inputs, each with its own outputs."""
    inputs = np.cumsum(layer.tiles[:, 1])
    cuts = np.searchsorted(inputs, inputs[-1] * np.arange(1, shares) / shares, side="right")
    parts = [tiles for tiles in np.split(layer.tiles, cuts) if len(tiles)]
    n_outputs = len(layer.biases) - WINDOW_TILE
    ends = [*(tiles[0, 3] for tiles in parts[1:]), n_outputs]
    return [
        Layer(
            tiles - [0, 0, 0, tiles[0, 3]],
            layer.weights,
            layer.biases[tiles[0, 3] : end + WINDOW_TILE],
        )
        for tiles, end in zip(parts, ends, strict=True)
    ]


def convolution(layer: nn.Conv1d) -> Singles:
    """The first convolution's kernel and then its biases."""
    kernel, bias = numbers(layer)
    return np.concatenate([kernel.ravel(), bias]).astype(np.float32)


def paired_convolution(layer: nn.Conv1d) -> Singles:
    """The second convolution's kernel for ``steps.convolve``, and then its biases.

    ``(3, 2, 4, 4)``, by input channel, pair of taps and output: the sum of the two taps, the
    first one, the second one.
    """
    kernel, bias = numbers(layer)
    pairs = (kernel * KEEP_SCALE).reshape(*FILTERS[::-1], KERNEL // 2, 2)
    first, second = pairs.transpose(3, 1, 2, 0)
    return np.concatenate([first + second, first, second, bias], axis=None).astype(np.float32)


def pooled_to_hidden(model: ApogeeBCNNCensored, precision: torch.dtype) -> Product:
    """The first dense layer: its inputs plane by plane, zeros for no position."""
    weights, biases = numbers(model.dense_1)
    by_plane = weights.reshape(len(weights), -1, FILTERS[1]).transpose(0, 2, 1) * KEEP_SCALE
    width = -(-len(weights) // COLUMNS) * COLUMNS
    padded = np.zeros((width, FILTERS[1], POSITIONS))
    padded[: len(weights), :, : by_plane.shape[2]] = by_plane
    rounded = torch.from_numpy(padded.reshape(width, POOLED_ROW)).float().to(precision)
    values = bits(rounded).reshape(width // COLUMNS, COLUMNS, -1, 4 // precision.itemsize)
    by_word = values.transpose(2, 0, 1, 3)
    panels = [by_word[word : word + PANEL] for word in range(0, len(by_word), PANEL)]
    flat = np.concatenate([panel.transpose(1, 0, 2, 3).ravel() for panel in panels])
    return Product(flat, np.pad(biases, (0, width - len(biases))).astype(np.float32))


def bits(tensor: torch.Tensor) -> NDArray[np.generic]:
    """A tensor's memory, flat; numpy has no bfloat16, so that is 16-bit integers."""
    flat = tensor.flatten()
    array: NDArray[np.generic] = (flat.view(torch.int16) if flat.itemsize == 2 else flat).numpy()
    return array


def windows(model: ApogeeBCNNCensored, shares: int) -> tuple[Indices, list[Layer]]:
    """The pixels of all windows, and the elements' first layers, which read them, in shares."""
    return window_pixels(model), _shared(tiled(window_layers(model), WINDOW_TILE), shares)


def finishing_layers(model: ApogeeBCNNCensored) -> FinishingLayers:
    """Everything behind the first hidden layers."""
    outputs, shares = last_layers(model)
    return FinishingLayers(
        dense_2=tiled([hidden_layer(model)], TILE),
        outputs=tiled([outputs], TILE),
        elements_2=tiled(element_layers(model), TILE),
        shares=tiled(shares, TILE),
        n_hidden=model.architecture.dense[0],
        n_elements_2=sum(model.architecture.element2),
        order=output_order(model),
    )


def finishing_space(model: ApogeeBCNNCensored) -> FinishingSpace:
    """Working space for the layers behind the first hidden ones."""
    architecture = model.architecture
    n_outputs = 2 * (len(model.dense_teffloggfeh.bias) + N_ELEMENTS)

    def space(units: int) -> Singles:
        return np.zeros((units + TILE + NUMBERS_PER_BLOCK) * LANES, dtype=np.float32)

    return FinishingSpace(
        hidden=space(architecture.dense[0]),
        hidden_2=space(architecture.dense[1]),
        elements=space(sum(architecture.element1)),
        kept=space(sum(architecture.element1)),
        elements_2=space(sum(architecture.element2)),
        outputs=space(n_outputs),
        shares=space(n_outputs),
    )

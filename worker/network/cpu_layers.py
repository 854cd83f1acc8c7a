"""The network's layers as the CPU's kernels read them: flat, tiled and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.network.cpu_products import COLUMNS, PANEL, TILE, WINDOW_TILE
from worker.network.cpu_steps import POOLED_ROW, POSITIONS
from worker.network.cpu_vectors import LANES
from worker.network.masks import KEEP_SCALE, NUMBERS_PER_BLOCK
from worker.network.model import FILTERS, KERNEL, N_ELEMENTS, ApogeeBCNNCensored

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


class _Part(NamedTuple):
    """A dense layer: ``(outputs, inputs)``, ``(outputs,)``, and where it reads and writes."""

    weights: Doubles
    biases: Doubles
    first_input: int
    first_output: int


def tiled(parts: Iterable[_Part], width: int) -> Layer:
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
    kernel, bias = _numbers(layer)
    return np.concatenate([kernel.ravel(), bias]).astype(np.float32)


def paired_convolution(layer: nn.Conv1d) -> Singles:
    """The second convolution's kernel for ``cpu_steps.convolve``, and then its biases.

    ``(3, 2, 4, 4)``, by input channel, pair of taps and output: the sum of the two taps, the
    first one, the second one.
    """
    kernel, bias = _numbers(layer)
    pairs = (kernel * KEEP_SCALE).reshape(*FILTERS[::-1], KERNEL // 2, 2)
    first, second = pairs.transpose(3, 1, 2, 0)
    return np.concatenate([first + second, first, second, bias], axis=None).astype(np.float32)


def pooled_to_hidden(model: ApogeeBCNNCensored, precision: torch.dtype) -> Product:
    """The first dense layer: its inputs plane by plane, zeros for no position."""
    weights, biases = _numbers(model.dense_1)
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
    architecture = model.architecture
    pixels = np.concatenate([model.window(i).cpu().numpy() for i in range(N_ELEMENTS)])
    parts = [
        _Part(*_numbers(layer), first_input, first_output)
        for layer, first_input, first_output in zip(
            model.elem_dense1,
            _starts(architecture.windows),
            _starts(architecture.element1),
            strict=True,
        )
    ]
    return pixels.astype(np.int64), _shared(tiled(parts, WINDOW_TILE), shares)


def finishing_layers(model: ApogeeBCNNCensored) -> FinishingLayers:
    """Everything behind the first hidden layers.

    The two auxiliary features and the full-spectrum labels are linear in the last hidden layer,
    and so is what the elements' outputs take from them: one layer gives it for all outputs.
    """
    architecture = model.architecture
    weights, biases = _numbers(model.dense_2)
    elements_2 = [
        _Part(scale_weights * KEEP_SCALE, bias, first_input, first_output)
        for (scale_weights, bias), first_input, first_output in zip(
            map(_numbers, model.elem_dense2),
            _starts(architecture.element1),
            _starts(architecture.element2),
            strict=True,
        )
    ]
    outputs, shares = _outputs(model)
    return FinishingLayers(
        dense_2=tiled([_Part(weights * KEEP_SCALE, biases, 0, 0)], TILE),
        outputs=tiled([outputs], TILE),
        elements_2=tiled(elements_2, TILE),
        shares=tiled(shares, TILE),
        n_hidden=architecture.dense[0],
        n_elements_2=sum(architecture.element2),
        order=_output_order(model),
    )


def _output_order(model: ApogeeBCNNCensored) -> Indices:
    """Where ``_outputs`` has the 22 labels and then the 22 log-variances."""
    n_full = len(model.dense_teffloggfeh.bias)
    element = 2 * n_full + 2 * np.arange(N_ELEMENTS)
    labels = np.concatenate([np.arange(n_full), element])
    log_variances = np.concatenate([n_full + np.arange(n_full), element + 1])
    order = model.output_order.cpu().numpy()
    return np.concatenate([labels[order], log_variances[order]])


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


def _outputs(model: ApogeeBCNNCensored) -> tuple[_Part, list[_Part]]:
    """What all outputs take from the last hidden layer, and from the elements' own layers.

    In order: the full-spectrum labels, their log-variances, and each element's two.
    """
    full, full_bias = _numbers(model.dense_teffloggfeh)
    full_variance, full_variance_bias = _numbers(model.dense_teffloggfeh_var)
    auxiliary, auxiliary_bias = _numbers(model.dense_aux_fullspec)
    joint = np.concatenate([auxiliary, full])
    joint_bias = np.concatenate([auxiliary_bias, full_bias])
    rows, biases, shares = [full, full_variance], [full_bias, full_variance_bias], []
    widths = model.architecture.element2
    heads = zip(model.elem_dense_out, model.elem_dense_var, strict=True)
    for element, (head, start) in enumerate(zip(heads, _starts(widths), strict=True)):
        pairs = [_numbers(layer) for layer in head]
        both = np.concatenate([weights for weights, _ in pairs])
        own, shared = np.split(both, [widths[element]], axis=1)
        rows.append(shared @ joint)
        biases.append(shared @ joint_bias + np.concatenate([bias for _, bias in pairs]))
        output = 2 * len(full) + 2 * element
        shares.append(_Part(own * KEEP_SCALE, np.zeros(2), start, output))
    return _Part(np.concatenate(rows), np.concatenate(biases), 0, 0), shares


def _numbers(layer: nn.Module) -> tuple[Doubles, Doubles]:
    """Weights and biases of a layer in double precision."""
    weights, biases = layer.weight, layer.bias
    return (
        weights.detach().cpu().double().numpy(),  # type: ignore[operator]
        biases.detach().cpu().double().numpy(),  # type: ignore[operator]
    )


def _starts(widths: tuple[int, ...]) -> list[int]:
    return [int(start) for start in np.cumsum((0, *widths[:-1]))]

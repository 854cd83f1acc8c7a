"""The network's layers as the CPU's kernels read them: flat, tiled and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from worker.network.cpu_steps import POSITIONS, TILE, WINDOW_TILE
from worker.network.cpu_vectors import LANES
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


def convolution(layer: nn.Conv1d, scale: float = 1.0) -> Singles:
    """A convolution's kernel and then its biases."""
    kernel, bias = _numbers(layer)
    return np.concatenate([(kernel * scale).ravel(), bias]).astype(np.float32)


def pooled_to_hidden(model: ApogeeBCNNCensored) -> Singles:
    """The first dense layer, ``(units, 4 * POSITIONS)``: plane by plane, zeros for no position."""
    weights, _ = _numbers(model.dense_1)
    by_plane = weights.reshape(len(weights), -1, FILTERS[1]).transpose(0, 2, 1) * KEEP_SCALE
    padded = np.zeros((len(weights), FILTERS[1], POSITIONS), dtype=np.float32)
    padded[:, :, : by_plane.shape[2]] = by_plane
    return padded.reshape(len(weights), -1)


def windows(model: ApogeeBCNNCensored) -> tuple[Indices, Layer]:
    """The pixels of all windows, and the elements' first layers, which read them."""
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
    return pixels.astype(np.int64), tiled(parts, WINDOW_TILE)


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
        n_elements_2=sum(architecture.element2),
    )


def output_order(model: ApogeeBCNNCensored) -> Indices:
    """Where ``_outputs`` has the 22 labels and then the 22 log-variances."""
    n_full = len(model.dense_teffloggfeh.bias)
    element = 2 * n_full + 2 * np.arange(N_ELEMENTS)
    labels = np.concatenate([np.arange(n_full), element])
    log_variances = np.concatenate([n_full + np.arange(n_full), element + 1])
    order = model.output_order.cpu().numpy()
    return np.concatenate([labels[order], log_variances[order]])


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

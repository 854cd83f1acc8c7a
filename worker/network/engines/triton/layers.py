"""The network's layers and the masks' calls as the GPU's kernels read them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.array_types import Floats
from worker.labels import LABELS
from worker.network.engines.dense_layers import (
    Dense,
    element_layers,
    hidden_layer,
    last_layers,
    numbers,
    output_order,
)
from worker.network.masks import KEEP_SCALE, mask_sites, site_blocks
from worker.network.model import ApogeeBCNNCensored, Architecture

Indices = NDArray[np.int64]


class Tiles(NamedTuple):
    """Dense layers side by side, in tiles of ``width`` outputs.

    Attributes
    ----------
    table
        ``(n, 5)``: first input, number of inputs, where the weights begin, first output, number
        of outputs.
    weights
        For each tile its outputs for each input, with zeros up to whole steps of inputs and for
        the outputs that it lacks.
    biases
        ``(n, width)``.
    """

    table: Tensor
    weights: Tensor
    biases: Tensor


class MaskRow(NamedTuple):
    """Where a pass's masks lie in its row of bytes, one for each call of the generator.

    ``calls`` is ``(2, pitch)``, the site and the block of each byte; ``starts`` says where each
    site's bytes begin.
    """

    calls: Tensor
    starts: dict[int, int]


def mask_row(architecture: Architecture, step: int) -> MaskRow:
    """The masks' row of a network, filled up to whole steps by calls that are not read.

    The small sites come first, so that other bytes lie ahead of the convolutions'.
    """
    blocks = sorted(site_blocks(mask_sites(architecture)).items(), reverse=True)
    sites = np.concatenate([np.full(number, site) for site, number in blocks])
    calls = np.concatenate([np.arange(number) for _, number in blocks])
    ends = np.cumsum([number for _, number in blocks])
    starts = {site: int(end) - number for (site, number), end in zip(blocks, ends, strict=True)}
    table = np.zeros((2, whole(len(calls), step)), dtype=np.int32)
    table[:, : len(calls)] = sites, calls
    return MaskRow(torch.from_numpy(table), starts)


def tiles(parts: list[Dense], width: int, step: int) -> Tiles:
    """Layers in tiles of ``width`` outputs, for kernels that take ``step`` inputs at a time."""
    table, weights, biases, at = [], [], [], 0
    for part in parts:
        for output in range(0, len(part.biases), width):
            rows = part.weights[output : output + width]
            n_outputs, n_inputs = rows.shape
            block = np.zeros((whole(n_inputs, step), width))
            block[:n_inputs, :n_outputs] = rows.T
            bias = np.zeros(width)
            bias[:n_outputs] = part.biases[output : output + width]
            table.append((part.first_input, n_inputs, at, part.first_output + output, n_outputs))
            weights.append(block.ravel())
            biases.append(bias)
            at += block.size
    return Tiles(
        torch.tensor(table, dtype=torch.int32), _single(np.concatenate(weights)), _single(biases)
    )


def second_layers(model: ApogeeBCNNCensored, width: int, step: int) -> tuple[Tiles, int]:
    """The second hidden layers of all branches; how many tiles are the full-spectrum branch's."""
    full = hidden_layer(model)
    return tiles([full, *element_layers(model)], width, step), -(-len(full.biases) // width)


def heads(
    model: ApogeeBCNNCensored, second: Tiles, n_full: int, n_outputs: int
) -> tuple[Tensor, Tensor]:
    """What the outputs take from each unit of the tiles of ``second_layers``, and their biases.

    Returns
    -------
    Tensor, Tensor
        ``(tiles, width, n_outputs)`` and ``(n_outputs,)``: labels from 0 on, log-variances from
        ``n_outputs / 2`` on.
    """
    outputs, shares = last_layers(model)
    own = np.zeros((len(outputs.biases), sum(model.architecture.element2)))
    for share in shares:
        rows, units = share.weights.shape
        first = share.first_output, share.first_input
        own[first[0] : first[0] + rows, first[1] : first[1] + units] = share.weights
    order = output_order(model)
    kind, label = np.divmod(np.arange(len(order)), len(LABELS))
    column = n_outputs // 2 * kind + label
    placed = np.zeros((*second.biases.shape, n_outputs))
    for tile, (_, _, _, first_unit, n_units) in enumerate(second.table.tolist()):
        source = outputs.weights if tile < n_full else own
        placed[tile, :n_units, column] = source[order, first_unit : first_unit + n_units]
    biases = np.zeros(n_outputs)
    biases[column] = outputs.biases[order]
    return _single(placed), _single(biases)


def pooled_to_hidden(model: ApogeeBCNNCensored, units: int, inputs: int) -> tuple[Tensor, Tensor]:
    """The first dense layer, scaled for the dropout ahead of it.

    Returns
    -------
    Tensor, Tensor
        Weights and biases with zeros up to whole tiles of ``units`` and ``inputs``.
    """
    kernel, bias = numbers(model.dense_1)
    shape = whole(kernel.shape[0], units), whole(kernel.shape[1], inputs)
    weights, biases = np.zeros(shape), np.zeros(shape[0])
    weights[: kernel.shape[0], : kernel.shape[1]] = kernel * KEEP_SCALE
    biases[: len(bias)] = bias
    return _single(weights), _single(biases)


def convolution(layer: nn.Conv1d, scale: float = 1.0) -> tuple[float, ...]:
    """A convolution's kernel and then its biases: arguments of a kernel, not memory."""
    kernel, bias = numbers(layer)
    return tuple(np.concatenate([(kernel * scale).ravel(), bias]).astype(np.float32).tolist())


def whole(number: int, step: int) -> int:
    """``number`` rounded up to whole steps."""
    return -(-number // step) * step


def _single(values: Floats | list[Floats]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))

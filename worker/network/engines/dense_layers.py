"""The network's dense layers as the compiled engines combine them, whatever their tiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from worker.array_types import Floats
from worker.network.masks import KEEP_SCALE
from worker.network.model import N_ELEMENTS, ApogeeBCNNCensored

Indices = NDArray[np.int64]


class Dense(NamedTuple):
    """A dense layer: ``(outputs, inputs)``, ``(outputs,)``, and where it reads and writes."""

    weights: Floats
    biases: Floats
    first_input: int
    first_output: int


def window_pixels(model: ApogeeBCNNCensored) -> Indices:
    """The pixels of all elements' windows, one window after the other."""
    pixels = [model.window(element).cpu().numpy() for element in range(N_ELEMENTS)]
    return np.concatenate(pixels).astype(np.int64)


def window_layers(model: ApogeeBCNNCensored) -> list[Dense]:
    """The elements' first layers, which read ``window_pixels``."""
    architecture = model.architecture
    return [
        Dense(*numbers(layer), first_input, first_output)
        for layer, first_input, first_output in zip(
            model.elem_dense1,
            starts(architecture.windows),
            starts(architecture.element1),
            strict=True,
        )
    ]


def element_layers(model: ApogeeBCNNCensored) -> list[Dense]:
    """The elements' second layers, scaled for the dropout ahead of them."""
    architecture = model.architecture
    return [
        Dense(weights * KEEP_SCALE, biases, first_input, first_output)
        for (weights, biases), first_input, first_output in zip(
            map(numbers, model.elem_dense2),
            starts(architecture.element1),
            starts(architecture.element2),
            strict=True,
        )
    ]


def hidden_layer(model: ApogeeBCNNCensored) -> Dense:
    """The second dense layer of the full-spectrum branch, scaled for the dropout ahead of it."""
    weights, biases = numbers(model.dense_2)
    return Dense(weights * KEEP_SCALE, biases, 0, 0)


def last_layers(model: ApogeeBCNNCensored) -> tuple[Dense, list[Dense]]:
    """What all outputs take from the last hidden layer, and from the elements' own layers.

    The two auxiliary features and the full-spectrum labels are linear in the last hidden layer,
    and so is what the elements' outputs take from them: one layer gives it for all outputs.
    In order: the full-spectrum labels, their log-variances, and each element's two.
    """
    full, full_bias = numbers(model.dense_teffloggfeh)
    full_variance, full_variance_bias = numbers(model.dense_teffloggfeh_var)
    auxiliary, auxiliary_bias = numbers(model.dense_aux_fullspec)
    joint = np.concatenate([auxiliary, full])
    joint_bias = np.concatenate([auxiliary_bias, full_bias])
    rows, biases, shares = [full, full_variance], [full_bias, full_variance_bias], []
    widths = model.architecture.element2
    heads = zip(model.elem_dense_out, model.elem_dense_var, strict=True)
    for element, (head, start) in enumerate(zip(heads, starts(widths), strict=True)):
        pairs = [numbers(layer) for layer in head]
        both = np.concatenate([weights for weights, _ in pairs])
        own, shared = np.split(both, [widths[element]], axis=1)
        rows.append(shared @ joint)
        biases.append(shared @ joint_bias + np.concatenate([bias for _, bias in pairs]))
        output = 2 * len(full) + 2 * element
        shares.append(Dense(own * KEEP_SCALE, np.zeros(2), start, output))
    return Dense(np.concatenate(rows), np.concatenate(biases), 0, 0), shares


def numbers(layer: nn.Module) -> tuple[Floats, Floats]:
    """Weights and biases of a layer in double precision."""
    weights, biases = layer.weight, layer.bias
    return (
        weights.detach().cpu().double().numpy(),  # type: ignore[operator]
        biases.detach().cpu().double().numpy(),  # type: ignore[operator]
    )


def starts(widths: tuple[int, ...]) -> list[int]:
    """Where each of some layers side by side begins."""
    return [int(start) for start in np.cumsum((0, *widths[:-1]))]


def output_order(model: ApogeeBCNNCensored) -> Indices:
    """Where ``last_layers`` has the 22 labels and then the 22 log-variances."""
    n_full = len(model.dense_teffloggfeh.bias)
    element = 2 * n_full + 2 * np.arange(N_ELEMENTS)
    labels = np.concatenate([np.arange(n_full), element])
    log_variances = np.concatenate([n_full + np.arange(n_full), element + 1])
    order = model.output_order.cpu().numpy()
    return np.concatenate([labels[order], log_variances[order]])

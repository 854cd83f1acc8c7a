"""One training pass of the network, several times as fast as its plain form on a CPU.

torch's convolutions are slow for one, two and four channels. Here each is a matrix product:
four neighbouring positions with all their channels, read from the eleven positions that they
see. Its gradient is written out, which saves most of the memory traffic, and the values may be
bfloat16. The tests hold values and gradients against ``ApogeeBCNNCensored.forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.network.masks import RATE
from worker.network.model import N_ELEMENTS, ApogeeBCNNCensored
from worker.spectra.pixels import N_PIXELS

_SCALE = 1 / (1 - RATE)
#: Positions in a block: those that the network pools.
_BLOCK = 4
_KERNEL = 8
_SEEN = _BLOCK + _KERNEL - 1
_N_POOLED = N_PIXELS // _BLOCK
_N_BLOCKS = -(-N_PIXELS // _BLOCK)
_CHANNELS, _FILTERS = 2, 4
#: Values of the first convolution in a block, and that one of its blocks sees of them.
_WIDTH = _BLOCK * _CHANNELS
_SEEN_VALUES = _SEEN * _CHANNELS
#: 'same' padding puts three positions before the first.
_BEFORE = 3
#: Where in the block before its own a block begins to see.
_FIRST = _WIDTH - _BEFORE * _CHANNELS
#: Rows of a spectrum in the second product: its blocks and, so that shifts by up to two rows
#: stay within it, more, of zeros.
_N_ROWS = _N_BLOCKS + 2

Masks = Mapping[str, Tensor]


def training_pass(
    model: ApogeeBCNNCensored, spectra: Tensor, masks: Masks | None
) -> tuple[Tensor, Tensor]:
    """Normalised labels and log-variances, ``(n, 22)`` float32 each.

    Parameters
    ----------
    spectra
        ``(n, 7514)`` as ``normalise_input`` gives them, in the type to compute in: float32, or
        bfloat16 for all but the heads.
    masks
        For each dropout site which units are kept, ``(n, units)``; None for no dropout.
    """
    conv1, conv2 = model.conv1, model.conv2
    convolutions: Callable[..., Tensor] = _Convolutions.apply
    pooled = convolutions(
        spectra,
        conv1.weight,
        conv1.bias,
        conv2.weight,
        conv2.bias,
        None if masks is None else masks["conv1"],
    )
    hidden = _dense(model.dense_1, _drop(masks, "pool", pooled))
    hidden = _dense(model.dense_2, _drop(masks, "dense_1", hidden)).float()
    full_labels = model.dense_teffloggfeh(hidden)
    joint = torch.cat([model.dense_aux_fullspec(hidden), full_labels], dim=1)
    labels, log_variances = [full_labels], [model.dense_teffloggfeh_var(hidden)]
    for element in range(N_ELEMENTS):
        values = _dense(model.elem_dense1[element], spectra[:, model.window(element)])
        values = _drop(masks, f"elem_dense1.{element}", values)
        values = _dense(model.elem_dense2[element], values)
        values = _drop(masks, f"elem_dense2.{element}", values).float()
        values = torch.cat([values, joint], dim=1)
        labels.append(model.elem_dense_out[element](values))
        log_variances.append(model.elem_dense_var[element](values))
    order = model.output_order
    return torch.cat(labels, dim=1)[:, order], torch.cat(log_variances, dim=1)[:, order]


def _dense(layer: nn.Module, values: Tensor) -> Tensor:
    weight, bias = (parameter.to(values.dtype) for parameter in layer.parameters())
    return functional.relu(functional.linear(values, weight, bias))


def _drop(masks: Masks | None, site: str, values: Tensor) -> Tensor:
    return values if masks is None else values * _SCALE * masks[site]


class _Convolutions(torch.autograd.Function):
    """conv1, ReLU, dropout, conv2, ReLU and max-pooling; flattened position-major."""

    @staticmethod
    def forward(
        ctx: Any,
        spectra: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        kept: Tensor | None,
    ) -> Tensor:
        dtype = spectra.dtype
        matrix1, matrix2 = _banded(weight1).to(dtype), _banded(weight2).to(dtype)
        after = _N_BLOCKS * _BLOCK - N_PIXELS + _KERNEL - 1 - _BEFORE
        seen1 = functional.pad(spectra, (_BEFORE, after)).unfold(1, _SEEN, _BLOCK)
        seen1 = seen1.reshape(-1, _SEEN)
        convolved = torch.addmm(bias1.to(dtype).repeat(_BLOCK), seen1, matrix1).relu_()
        padded = _padded(convolved.view(len(spectra), -1), kept)
        seen2 = padded[:, _FIRST:].unfold(1, _SEEN_VALUES, _WIDTH)[:, :_N_ROWS]
        seen2 = seen2.reshape(-1, _SEEN_VALUES)
        # Positions and filters first: then all that follows runs along the memory.
        values = torch.addmm(bias2.to(dtype).repeat(_BLOCK)[:, None], matrix2.t(), seen2.t())
        halves = values.view(2, 2, _FILTERS, -1)
        pairs = torch.maximum(halves[0], halves[1])
        pooled = torch.maximum(pairs[0], pairs[1]).relu_()
        later = halves[1] > halves[0], pairs[1] > pairs[0]
        ctx.save_for_backward(seen1, padded, seen2, pooled, *later, matrix2)
        ctx.scale = 1.0 if kept is None else _SCALE
        rows = pooled.view(_FILTERS, len(spectra), _N_ROWS)[:, :, :_N_POOLED]
        return rows.permute(1, 2, 0).reshape(len(spectra), -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen1, padded, seen2, pooled, later, latest, matrix2 = ctx.saved_tensors
        rows = gradients[0].new_zeros(_FILTERS, len(padded), _N_ROWS)
        rows[:, :, :_N_POOLED] = gradients[0].view(len(padded), -1, _FILTERS).permute(2, 0, 1)
        rows = rows.view(_FILTERS, -1).mul_(pooled > 0)
        values = _to_winners(_to_winners(rows, latest), later).view(-1, rows.shape[1])
        spread = _fold(values.t(), matrix2).view(len(padded), -1, _WIDTH)[:, 1 : 1 + _N_BLOCKS]
        # What ReLU or dropout had set to zero passes no gradient on.
        blocks = padded.view(len(padded), -1, _WIDTH)[:, 1 : 1 + _N_BLOCKS]
        convolved = (spread * (blocks > 0)).view(-1, _WIDTH)
        grad_bias1 = convolved.sum(0, dtype=torch.float32).view(_BLOCK, _CHANNELS).sum(0)
        return (
            None,
            _unbanded(seen1.t() @ convolved, 1) * ctx.scale,
            grad_bias1 * ctx.scale,
            _unbanded((values @ seen2).t(), _CHANNELS),
            rows.sum(1, dtype=torch.float32),
            None,
        )


def _padded(convolved: Tensor, kept: Tensor | None) -> Tensor:
    """What dropout leaves, with a block of zeros before it and some after it.

    The units of this dropout site are position-major here. Which of the independent units of
    a site a mask drops first does not matter.
    """
    n_values = N_PIXELS * _CHANNELS
    padded = convolved.new_zeros(len(convolved), (_N_ROWS + 2) * _WIDTH)
    inner = padded[:, _WIDTH : _WIDTH + n_values]
    if kept is None:
        inner.copy_(convolved[:, :n_values])
    else:
        torch.mul(convolved[:, :n_values], kept, out=inner)
        inner.mul_(_SCALE)
    return padded


def _to_winners(gradient: Tensor, second: Tensor) -> Tensor:
    """The gradient of a maximum of two, for both, ``(2, ...)``; where equal for the first."""
    both = gradient.new_empty(2, *gradient.shape)
    torch.mul(gradient, second, out=both[1])
    torch.sub(gradient, both[1], out=both[0])
    return both


def _fold(values: Tensor, matrix: Tensor) -> Tensor:
    """Bring gradients of blocks back to what they have seen, ``(n 1881, 8)``.

    A block has seen the end of the block of its own number, which is shifted by the padding,
    and the two after it. The last rows of a spectrum are zero, so nothing gets into the next.
    """
    own, middle = _WIDTH - _FIRST, 2 * _WIDTH - _FIRST
    folded = values @ functional.pad(matrix[:own], (0, 0, _FIRST, 0)).t()
    folded[1:].addmm_(values[:-1], matrix[own:middle].t())
    folded[2:].addmm_(values[:-2], matrix[middle:].t())
    return folded


def _banded(weight: Tensor) -> Tensor:
    """A convolution's kernel ``(out, in, 8)`` as the matrix of a block, ``(11 in, 4 out)``."""
    plain = weight.permute(2, 1, 0)
    shifted = [
        functional.pad(plain, (0, 0, 0, 0, position, _BLOCK - 1 - position))
        for position in range(_BLOCK)
    ]
    return torch.stack(shifted, dim=2).reshape(_SEEN * weight.shape[1], -1)


def _unbanded(matrix: Tensor, channels: int) -> Tensor:
    """The gradient of the kernel out of that of its block's matrix."""
    parts = matrix.float().view(_SEEN, channels, _BLOCK, -1)
    kernel = sum(parts[position : position + _KERNEL, :, position] for position in range(_BLOCK))
    assert isinstance(kernel, Tensor)  # noqa: S101 - a sum of none would be an integer
    return kernel.permute(2, 1, 0)

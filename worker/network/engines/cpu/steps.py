"""Dropout and the second convolution, written out in vectors.

Compilers do not find these forms in loops: Philox on sixteen counters at once, a convolution
whose inputs stay in registers. Each intrinsic is one call in
``kernels``; what it writes in its place is the function of the same name behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from worker.network.engines.cpu.vectors import (
    FLOAT32,
    FLOATS,
    INT32,
    LANES,
    ZEROS,
    Vectors,
    integer,
    written,
)
from worker.network.masks import CONV1, NUMBERS_PER_BLOCK, POOLED
from worker.network.model import FILTERS, KERNEL, PADDING, POOL
from worker.spectra.pixels import N_PIXELS

#: Pooled positions, rounded up to whole steps of the convolution.
STEP = 2 * LANES
POSITIONS = -(-(N_PIXELS // POOL) // STEP) * STEP
#: Values of a pass behind pooling: four planes of positions.
POOLED_ROW = FILTERS[1] * POSITIONS
#: The convolved spectrum lies in planes, one for each channel and position modulo 4, so that
#: neighbours in a plane are pooled positions. Zeros lie on both sides of each.
N_PLANES = FILTERS[0] * POOL
MARGIN = LANES
PLANE = MARGIN + POSITIONS + MARGIN
#: Weights of the second convolution, see ``_pooled``.
N_PAIRED = 3 * FILTERS[0] * KERNEL // 2 * FILTERS[1]

#: What a pooling window sees, by channel and place.
Inputs = dict[tuple[int, int], Any]


@intrinsic
def drop_convolved(
    _: Any, planes: Any, thinned: Any, position: Any, number: Any, key0: Any, key1: Any
) -> Any:
    """Dropout behind the first convolution at sixteen pooled positions of pass ``number``."""
    return written(_drop_convolved, planes, thinned, position, number, key0, key1)


def _drop_convolved(
    steps: Vectors, planes: Any, thinned: Any, position: Any, number: Any, key0: Any, key1: Any
) -> None:
    counter = steps.counter(steps.counted(position), CONV1, number)
    for phase, word in enumerate(steps.philox(counter, (key0, key1))):
        for channel, keep in enumerate(steps.kept(word)):
            at = steps.at(position, (POOL * channel + phase) * PLANE + MARGIN)
            steps.store(1, thinned, at, steps.thinned(keep, steps.load(0, planes, at)))


@intrinsic
def convolve(
    _: Any,
    thinned: Any,
    weights: Any,
    pooled: Any,
    row: Any,
    position: Any,
    number: Any,
    key0: Any,
    key1: Any,
) -> Any:
    """The second convolution, ReLU, pooling and dropout at 32 pooled positions.

    ``weights`` is ``layers.paired_convolution``; ``pooled`` gets four planes from ``row`` on,
    float32 or, as 16-bit integers, the bits of bfloat16.
    """
    return written(_convolve, thinned, weights, pooled, row, position, number, key0, key1)


def _convolve(
    steps: Vectors,
    thinned: Any,
    weights: Any,
    pooled: Any,
    row: Any,
    position: Any,
    number: Any,
    key0: Any,
    key1: Any,
) -> None:
    builder = steps.builder
    block = builder.lshr(position, integer(1))
    counter = steps.counter(steps.counted(block), POOLED, number)
    keeps = [steps.kept_in_order(word) for word in steps.philox(counter, (key0, key1))]
    for half in range(2):
        at = steps.at(position, half * LANES)
        for output, value in enumerate(_pooled(steps, _seen(steps, thinned, at), weights)):
            kept = steps.thinned(keeps[output][half], value)
            if steps.types[2].dtype != types.float32:
                kept = steps.bfloat16(kept)
            place = builder.add(row, steps.at(at, output * POSITIONS))
            steps.store(2, pooled, place, kept)


def _seen(steps: Vectors, thinned: Any, at: Any) -> Inputs:
    """All inputs of a pooling window at sixteen positions."""
    return {
        (channel, distance + PADDING[0]): steps.load(
            0,
            thinned,
            steps.at(at, (POOL * channel + distance % POOL) * PLANE + MARGIN + distance // POOL),
        )
        for channel in range(FILTERS[0])
        for distance in range(-PADDING[0], POOL + PADDING[1])
    }


def _pooled(steps: Vectors, inputs: Inputs, weights: Any) -> list[Any]:
    """The largest of a pooling window's four convolved values, rectified, for each channel.

    With weights v and w of two neighbouring taps, two neighbouring positions take
    v a + w b and v b + w c from their inputs a, b, c. That is (v + w) b + v (a - b) and
    (v + w) b + w (c - b): three products instead of four, differences being the same for all
    channels (Winograd 1980, *Arithmetic complexity of computations*, F(2, 2)).
    """
    minus = steps.builder.fsub

    def shared(channel: int, at: int) -> Any:
        return inputs[channel, at + 1]

    def first(channel: int, at: int) -> Any:
        return minus(inputs[channel, at], inputs[channel, at + 1])

    def second(channel: int, at: int) -> Any:
        return minus(inputs[channel, at + 2], inputs[channel, at + 1])

    zeros = dict.fromkeys(product(range(FILTERS[1]), range(0, POOL, 2)), ZEROS)
    both = _summed(steps, zeros, 0, shared, weights)
    values = [_summed(steps, both, kind, seen, weights) for kind, seen in ((1, first), (2, second))]
    rectified = []
    for output in range(FILTERS[1]):
        index = N_PAIRED + output
        bias = steps.splat(steps.load(1, weights, integer(index), FLOAT32), FLOATS)
        of_output = [total[output, at] for total in values for at in range(0, POOL, 2)]
        largest = steps.builder.fadd(reduce(steps.largest, of_output), bias)
        rectified.append(steps.largest(largest, ZEROS))
    return rectified


def _summed(
    steps: Vectors,
    totals: dict[tuple[int, int], Any],
    kind: int,
    seen: Callable[[int, int], Any],
    weights: Any,
) -> dict[tuple[int, int], Any]:
    """``totals``, by output channel and position, with one kind of product added."""
    totals = totals.copy()
    for channel, pair in product(range(FILTERS[0]), range(KERNEL // 2)):
        values = {at: seen(channel, at + 2 * pair) for at in range(0, POOL, 2)}
        for output in range(FILTERS[1]):
            index = ((kind * FILTERS[0] + channel) * KERNEL // 2 + pair) * FILTERS[1] + output
            weight = steps.splat(steps.load(1, weights, integer(index), FLOAT32), FLOATS)
            for at, value in values.items():
                totals[output, at] = steps.multiply_add(value, weight, totals[output, at])
    return totals


@intrinsic
def drop_units(
    _: Any, values: Any, kept: Any, site: Any, block: Any, number: Any, key0: Any, key1: Any
) -> Any:
    """Dropout of the eight units of a block in sixteen passes from ``number`` on.

    ``values`` has sixteen lanes for each unit, and so has ``kept``, which gets what is left.
    """
    return written(_drop_units, values, kept, site, block, number, key0, key1)


def _drop_units(
    steps: Vectors, values: Any, kept: Any, site: Any, block: Any, number: Any, key0: Any, key1: Any
) -> None:
    block_word = steps.builder.trunc(block, INT32)
    site_word = steps.builder.trunc(site, INT32)
    counter = [block_word, site_word, steps.counted(number), ir.Constant(INT32, 0)]
    words = steps.philox(counter, (key0, key1))
    keeps = [keep for word in words for keep in steps.kept(word)]
    first = steps.builder.mul(block, integer(NUMBERS_PER_BLOCK * LANES))
    for unit, keep in enumerate(keeps):
        at = steps.at(first, unit * LANES)
        steps.store(1, kept, at, steps.thinned(keep, steps.load(0, values, at)))

"""The GPU engine's kernels, in Triton: MC dropout from flux to mean and spread.

What a kernel computes for a spectrum, or for one of its passes (a row), depends on nothing else
in the batch: tiles are of one shape, sums have one order, and what lies behind the last row of
a tile is computed and never read. Masks are bits that one kernel draws, a byte for each call of
the generator, so that the others need not draw a unit's number again where they meet it twice.

Written for the compiler and for Triton's interpreter alike; ``worker.network.triton_engine``
launches them.
"""

from typing import Any

import triton
import triton.language as tl

from worker.network.masks import NUMBERS_PER_BLOCK, THRESHOLD
from worker.network.model import FILTERS, KERNEL, PADDING, POOL
from worker.network.philox import KEY_STEPS, MULTIPLIERS, ROUNDS
from worker.spectra.pixels import N_PIXELS

_ROUNDS = tl.constexpr(ROUNDS)
_MULTIPLIER_0, _MULTIPLIER_1 = (tl.constexpr(number) for number in MULTIPLIERS)
_KEY_STEP_0, _KEY_STEP_1 = (tl.constexpr(number) for number in KEY_STEPS)
_THRESHOLD = tl.constexpr(THRESHOLD)
_NUMBERS = tl.constexpr(NUMBERS_PER_BLOCK)

_N_PIXELS = tl.constexpr(N_PIXELS)
_POSITIONS = tl.constexpr(N_PIXELS // POOL)
_CHANNELS, _OUTPUTS = (tl.constexpr(number) for number in FILTERS)
_KERNEL = tl.constexpr(KERNEL)
_LEFT = tl.constexpr(PADDING[0])
_POOL = tl.constexpr(POOL)
#: Inputs of a pooling window's convolutions, in each channel.
_SEEN = tl.constexpr(POOL + KERNEL - 1)

#: Zeros ahead of a convolved channel, and its length with those behind it.
MARGIN = POOL
CONVOLVED_PITCH = 7680
_MARGIN = tl.constexpr(MARGIN)
_CONVOLVED_PITCH = tl.constexpr(CONVOLVED_PITCH)
#: Columns of a tile's table: first input, inputs, first weight, first output, outputs.
TABLE_COLUMNS = 5
_TABLE_COLUMNS = tl.constexpr(TABLE_COLUMNS)


@triton.jit
def philox_words(block: Any, site: Any, number: Any, key0: Any, key1: Any) -> Any:
    """Philox4x32-7 of the counters (block, site, number, 0), all uint32."""
    a, b, c, d = block, site, number, number * 0
    for turn in tl.static_range(_ROUNDS):
        if turn > 0:
            key0 += _KEY_STEP_0
            key1 += _KEY_STEP_1
        left = a.to(tl.uint64) * _MULTIPLIER_0
        right = c.to(tl.uint64) * _MULTIPLIER_1
        a = (right >> 32).to(tl.uint32) ^ b ^ key0
        c = (left >> 32).to(tl.uint32) ^ d ^ key1
        b = right.to(tl.uint32)
        d = left.to(tl.uint32)
    return a, b, c, d


@triton.jit(do_not_specialize=["first_pass", "n_passes"])
def draw_masks(
    keys: Any,
    calls: Any,
    bits: Any,
    first_pass: Any,
    n_passes: Any,
    PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    PASSES: tl.constexpr,
) -> None:
    """All masks of some passes: bit j of a byte says whether the unit of number j is kept.

    ``keys`` is ``(spectra, 2)``, ``calls`` ``(2, PITCH)``: site and block of each byte of a row;
    ``bits`` gets ``(spectra, n_passes, PITCH)``.
    """
    call = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    site = tl.load(calls + call).to(tl.uint32)
    block = tl.load(calls + PITCH + call).to(tl.uint32)
    spectrum = tl.program_id(2)
    key0 = tl.load(keys + 2 * spectrum).to(tl.uint32, bitcast=True)
    key1 = tl.load(keys + 2 * spectrum + 1).to(tl.uint32, bitcast=True)
    first = tl.program_id(1) * PASSES
    for number in range(first, tl.minimum(first + PASSES, n_passes)):
        counted = (first_pass + number).to(tl.uint32)
        words = philox_words(block, site, counted, key0, key1)
        kept = tl.zeros([BLOCK], tl.int32)
        for word in tl.static_range(4):
            kept |= tl.where((words[word] & 0xFFFF) >= _THRESHOLD, 1 << (2 * word), 0)
            kept |= tl.where((words[word] >> 16) >= _THRESHOLD, 2 << (2 * word), 0)
        row = spectrum * n_passes + number
        tl.store(bits + row * PITCH + call, kept.to(tl.uint8))


@triton.jit
def _rectified(values: Any) -> Any:
    """ReLU; what is not a number stays so."""
    return tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _kept(bits: Any, row: Any, unit: Any, PITCH: tl.constexpr, SITE: tl.constexpr) -> Any:
    """Which units of a tile are kept, one or zero; the site's bytes begin at ``SITE``."""
    byte = tl.load(bits + row[:, None] * PITCH + (SITE + unit // _NUMBERS)[None, :])
    return (byte.to(tl.int32) >> (unit % _NUMBERS)[None, :]) & 1


@triton.jit
def convolve_spectra(spectra: Any, weights: Any, convolved: Any, BLOCK: tl.constexpr) -> None:
    """The first convolution with ReLU.

    ``spectra`` is ``(n, 7514)``, normalised; ``weights`` has the kernel, ``(2, 8)``, and then the
    biases; ``convolved`` gets ``(n, 2, CONVOLVED_PITCH)``.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    position = place - _MARGIN
    spectrum = tl.program_id(1)
    pixels = ()
    for tap in tl.static_range(_KERNEL):
        pixel = position + (tap - _LEFT)
        inside = (pixel >= 0) & (pixel < _N_PIXELS)
        pixels += (tl.load(spectra + spectrum * _N_PIXELS + pixel, mask=inside, other=0.0),)
    real = (position >= 0) & (position < _N_PIXELS)
    for channel in tl.static_range(_CHANNELS):
        total = tl.zeros([BLOCK], tl.float32)
        for tap in tl.static_range(_KERNEL):
            total += pixels[tap] * weights[channel * _KERNEL + tap]
        total = _rectified(total + weights[_CHANNELS * _KERNEL + channel])
        row = spectrum * _CHANNELS + channel
        inside = place < _CONVOLVED_PITCH
        tl.store(convolved + row * _CONVOLVED_PITCH + place, tl.where(real, total, 0.0), inside)


@triton.jit(do_not_specialize=["n_passes"])
def pool_passes(
    convolved: Any,
    bits: Any,
    weights: Any,
    pooled: Any,
    n_passes: Any,
    PITCH: tl.constexpr,
    CONV1: tl.constexpr,
    POOLED: tl.constexpr,
    POOLED_PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    PASSES: tl.constexpr,
) -> None:
    """Some passes from the first dropout to the second one.

    The inputs of a pooling window stay in registers for all passes of a program. ``weights`` has
    the kernel, ``(4, 2, 8)``, and then the biases; ``pooled`` gets ``(spectra, n_passes,
    POOLED_PITCH)`` with position and channel as the network has them, in its own type.
    """
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.program_id(0) * (BLOCK * _OUTPUTS) + tl.arange(0, BLOCK * _OUTPUTS)
    position = tl.minimum(position, _POSITIONS - 1)
    spectrum = tl.program_id(2)
    window = convolved + spectrum * _CHANNELS * _CONVOLVED_PITCH
    window += _POOL * position + (_MARGIN - _LEFT)
    inputs = ()
    for channel in tl.static_range(_CHANNELS):
        for distance in tl.static_range(_SEEN):
            inputs += (tl.load(window + channel * _CONVOLVED_PITCH + distance),)
    first = tl.program_id(1) * PASSES
    for number in range(first, tl.minimum(first + PASSES, n_passes)):
        row = spectrum * n_passes + number
        own = bits + row * PITCH + CONV1 + position
        # The margin's zeros come with bits of no meaning.
        masks = (tl.load(own - 1), tl.load(own), tl.load(own + 1))
        seen = _thinned(inputs, masks)
        kept = tl.load(bits + row * PITCH + POOLED + position // 2) >> (position % 2)
        first_two = tl.join(_pooled(seen, weights, kept, 0), _pooled(seen, weights, kept, 2))
        last_two = tl.join(_pooled(seen, weights, kept, 1), _pooled(seen, weights, kept, 3))
        values = tl.join(first_two, last_two).reshape(BLOCK * _OUTPUTS)
        values = values.to(pooled.dtype.element_ty)
        tl.store(pooled + row * POOLED_PITCH + place, values, place < _POSITIONS * _OUTPUTS)


@triton.jit
def _thinned(inputs: Any, masks: Any) -> Any:
    """What the first dropout leaves of a pooling window's inputs.

    ``masks`` are those of the window ahead, of this one and of the one behind.
    """
    seen = ()
    for channel in tl.static_range(_CHANNELS):
        for distance in tl.static_range(_SEEN):
            phase = (distance - _LEFT) % _POOL
            mask = masks[(distance - _LEFT) // _POOL + 1]
            keep = (mask.to(tl.int32) & (1 << (2 * phase + channel))) != 0
            seen += (tl.where(keep, inputs[channel * _SEEN + distance], 0.0),)
    return seen


@triton.jit
def _pooled(seen: Any, weights: Any, kept: Any, output: tl.constexpr) -> Any:
    """A channel of the second convolution with its pooling, ReLU and dropout."""
    largest = tl.full(kept.shape, float("-inf"), tl.float32)
    for phase in tl.static_range(_POOL):
        total = tl.zeros(kept.shape, tl.float32)
        for channel in tl.static_range(_CHANNELS):
            for tap in tl.static_range(_KERNEL):
                weight = weights[(output * _CHANNELS + channel) * _KERNEL + tap]
                total += seen[channel * _SEEN + phase + tap] * weight
        largest = tl.maximum(largest, total, propagate_nan=tl.PropagateNan.ALL)
    value = _rectified(largest + weights[_OUTPUTS * _CHANNELS * _KERNEL + output])
    return tl.where((kept.to(tl.int32) & (1 << (2 * output))) != 0, value, 0.0)


@triton.jit(do_not_specialize=["n_spectra"])
def first_elements(
    spectra: Any,
    pixels: Any,
    table: Any,
    weights: Any,
    biases: Any,
    elements: Any,
    n_spectra: Any,
    PITCH: tl.constexpr,
    SPECTRA: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """The elements' first layers with ReLU, a tile of one of them for some spectra.

    ``pixels`` are the inputs of all layers; ``elements`` gets ``(spectra, PITCH)``.
    """
    tile = tl.program_id(0)
    first_input = tl.load(table + tile * _TABLE_COLUMNS)
    n_inputs = tl.load(table + tile * _TABLE_COLUMNS + 1)
    weight = weights + tl.load(table + tile * _TABLE_COLUMNS + 2)
    first_output = tl.load(table + tile * _TABLE_COLUMNS + 3)
    n_outputs = tl.load(table + tile * _TABLE_COLUMNS + 4)
    spectrum = tl.program_id(1) * SPECTRA + tl.arange(0, SPECTRA)
    unit = tl.arange(0, WIDTH)
    step = tl.arange(0, STEP)
    there = spectrum < n_spectra
    total = tl.zeros([SPECTRA, WIDTH], tl.float32)
    for first in range(0, n_inputs, STEP):
        inside = first + step < n_inputs
        pixel = tl.load(pixels + first_input + first + step, mask=inside, other=0)
        seen = tl.load(
            spectra + spectrum[:, None] * _N_PIXELS + pixel[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        kernel = tl.load(weight + (first + step)[:, None] * WIDTH + unit[None, :])
        total = tl.dot(seen, kernel, total, input_precision="ieee")
    total = _rectified(total + tl.load(biases + tile * WIDTH + unit)[None, :])
    tl.store(
        elements + spectrum[:, None] * PITCH + (first_output + unit)[None, :],
        total,
        mask=there[:, None] & (unit < n_outputs)[None, :],
    )


@triton.jit
def dense_passes(
    pooled: Any,
    weights: Any,
    biases: Any,
    bits: Any,
    hidden: Any,
    POOLED_PITCH: tl.constexpr,
    PITCH: tl.constexpr,
    SITE: tl.constexpr,
    HIDDEN_PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    STEP: tl.constexpr,
) -> None:
    """The first dense layer with ReLU and dropout: a tile of passes and hidden units.

    ``pooled`` is ``(rows, POOLED_PITCH)``, ``weights`` ``(HIDDEN_PITCH, POOLED_PITCH)`` with zeros
    where there is no unit; ``hidden`` gets ``(rows, HIDDEN_PITCH)`` float32.
    """
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    step = tl.arange(0, STEP)
    left = pooled + row[:, None] * POOLED_PITCH + step[None, :]
    right = weights + unit[None, :] * POOLED_PITCH + step[:, None]
    total = tl.zeros([ROWS, UNITS], tl.float32)
    for first in range(0, POOLED_PITCH, STEP):
        total = tl.dot(tl.load(left + first), tl.load(right + first), total, input_precision="ieee")
    total = _rectified(total + tl.load(biases + unit)[None, :])
    total = tl.where(_kept(bits, row, unit, PITCH, SITE) != 0, total, 0.0)
    tl.store(hidden + row[:, None] * HIDDEN_PITCH + unit[None, :], total)


@triton.jit
def _second_layer(
    inputs: Any,
    row: Any,
    bits: Any,
    table: Any,
    weights: Any,
    biases: Any,
    tile: Any,
    PITCH: tl.constexpr,
    SITE: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
) -> Any:
    """A tile of a dense layer with ReLU, whose inputs are dropped where ``SITE`` is not None.

    ``inputs`` points to the first input of each row.
    """
    inputs += tl.load(table + tile * _TABLE_COLUMNS)
    n_inputs = tl.load(table + tile * _TABLE_COLUMNS + 1)
    weights += tl.load(table + tile * _TABLE_COLUMNS + 2)
    unit = tl.arange(0, WIDTH)
    total = tl.zeros([row.shape[0], WIDTH], tl.float32)
    for first in range(0, n_inputs, STEP):
        step = first + tl.arange(0, STEP)
        seen = tl.load(inputs[:, None] + step[None, :], (step < n_inputs)[None, :], 0.0)
        if SITE is not None:
            first_input = tl.load(table + tile * _TABLE_COLUMNS)
            kept = _kept(bits, row, first_input + step, PITCH, SITE)
            seen = tl.where(kept != 0, seen, 0.0)
        kernel = tl.load(weights + step[:, None] * WIDTH + unit[None, :])
        total = tl.dot(seen, kernel, total, input_precision="ieee")
    return _rectified(total + tl.load(biases + tile * WIDTH + unit)[None, :])


@triton.jit
def _with_head(total: Any, second: Any, heads: Any, tile: Any) -> Any:
    """The outputs with what they take from a tile's units."""
    WIDTH: tl.constexpr = second.shape[1]
    OUTPUTS: tl.constexpr = total.shape[1]
    unit = tile * WIDTH + tl.arange(0, WIDTH)
    head = tl.load(heads + unit[:, None] * OUTPUTS + tl.arange(0, OUTPUTS)[None, :])
    return tl.dot(second, head, total, input_precision="ieee")


@triton.jit(do_not_specialize=["first_pass", "n_passes", "all_passes", "n_spectra"])
def finish_passes(
    hidden: Any,
    elements: Any,
    bits: Any,
    table: Any,
    weights: Any,
    biases: Any,
    heads: Any,
    output_biases: Any,
    outputs: Any,
    first_pass: Any,
    n_passes: Any,
    all_passes: Any,
    n_spectra: Any,
    HIDDEN_PITCH: tl.constexpr,
    ELEMENTS_PITCH: tl.constexpr,
    PITCH: tl.constexpr,
    ELEMENT1: tl.constexpr,
    ELEMENT2: tl.constexpr,
    HIDDEN_TILES: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    OUTPUTS: tl.constexpr,
) -> None:
    """Some passes from the first hidden layers to labels and log-variances.

    Each tile makes some units of a second hidden layer and at once what the outputs take from
    them: the first ``HIDDEN_TILES`` those of the full-spectrum branch, the others the elements'.
    ``outputs`` gets ``(spectra, all_passes, OUTPUTS)``.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    spectrum = row // n_passes
    there = spectrum < n_spectra
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    inputs = hidden + row * HIDDEN_PITCH
    for tile in range(HIDDEN_TILES):
        second = _second_layer(
            inputs, row, bits, table, weights, biases, tile, PITCH, None, WIDTH, STEP
        )
        total = _with_head(total, second, heads, tile)
    inputs = elements + tl.where(there, spectrum, 0) * ELEMENTS_PITCH
    for tile in range(HIDDEN_TILES, TILES):
        second = _second_layer(
            inputs, row, bits, table, weights, biases, tile, PITCH, ELEMENT1, WIDTH, STEP
        )
        unit = tl.load(table + tile * _TABLE_COLUMNS + 3) + tl.arange(0, WIDTH)
        second = tl.where(_kept(bits, row, unit, PITCH, ELEMENT2) != 0, second, 0.0)
        total = _with_head(total, second, heads, tile)
    output = tl.arange(0, OUTPUTS)
    total += tl.load(output_biases + output)[None, :]
    place = spectrum * all_passes + first_pass + row % n_passes
    tl.store(outputs + place[:, None] * OUTPUTS + output[None, :], total, there[:, None])


@triton.jit(do_not_specialize=["n_passes"])
def summarise_passes(
    outputs: Any,
    largest: Any,
    results: Any,
    n_passes: Any,
    LIMIT: tl.constexpr,
    LABELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PASSES: tl.constexpr,
) -> None:
    """Mean and total standard deviation of a spectrum, as ``worker.network.engine.summarise``.

    ``outputs`` is ``(spectra, n_passes, OUTPUTS)``, labels in the first half and log-variances in
    the second; ``largest`` the largest value of each spectrum's first convolution. ``results``
    gets ``(spectra, 2, LABELS)`` float64: no numbers where the largest value is not below
    ``LIMIT``.
    """
    spectrum = tl.program_id(0)
    label = tl.arange(0, OUTPUTS // 2)
    number = tl.arange(0, PASSES)
    values = outputs + (spectrum * n_passes + number[:, None]) * OUTPUTS + label[None, :]
    labels = tl.zeros([OUTPUTS // 2], tl.float64)
    log_variances = tl.zeros([OUTPUTS // 2], tl.float64)
    for first in range(0, n_passes, PASSES):
        there = (first + number < n_passes)[:, None]
        some = tl.load(values + first * OUTPUTS, there, 0.0)
        labels += tl.sum(some.to(tl.float64), axis=0)
        some = tl.load(values + first * OUTPUTS + OUTPUTS // 2, there, 0.0)
        log_variances += tl.sum(some.to(tl.float64), axis=0)
    mean = labels / n_passes
    squares = tl.zeros([OUTPUTS // 2], tl.float64)
    for first in range(0, n_passes, PASSES):
        there = (first + number < n_passes)[:, None]
        some = tl.load(values + first * OUTPUTS, there, 0.0)
        distance = tl.where(there, some.to(tl.float64) - mean[None, :], 0.0)
        squares += tl.sum(distance * distance, axis=0)
    variance = tl.exp(log_variances / n_passes) + squares / (n_passes - 1)
    usable = tl.load(largest + spectrum) < LIMIT
    place = results + spectrum * 2 * LABELS + label
    tl.store(place, tl.where(usable, mean, float("nan")), label < LABELS)
    tl.store(place + LABELS, tl.where(usable, tl.sqrt(variance), float("nan")), label < LABELS)

"""The GPU engine's dense layers and its statistics, in Triton.

Every sum has one order: tiles are of one shape, and what lies behind the last row of a tile is
computed and never read. So the bits of a spectrum or pass (a row) depend on nothing else in the
batch. Launched by ``worker.network.engines.triton.engine``.
"""

import triton
import triton.language as tl

from worker.network.engines.triton.convolutions import rectified
from worker.network.engines.triton.masks import kept_units
from worker.spectra.pixels import N_PIXELS

_N_PIXELS = tl.constexpr(N_PIXELS)
#: Columns of a tile's table: first input, inputs, first weight, first output, outputs.
_COLUMNS = tl.constexpr(5)
#: Triton's interpreter takes bfloat16 for integers when it multiplies.
_INTERPRETED = tl.constexpr(not isinstance(rectified, triton.JITFunction))


@triton.jit(do_not_specialize=["n_spectra"])
def first_elements(
    spectra,
    pixels,
    table,
    weights,
    biases,
    elements,
    n_spectra,
    PITCH: tl.constexpr,
    SPECTRA: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
):
    """The elements' first layers with ReLU, a tile of one of them for some spectra.

    ``pixels`` are the inputs of all layers; ``elements`` gets ``(spectra, PITCH)``.
    """
    tile = tl.program_id(0)
    first_input = tl.load(table + tile * _COLUMNS)
    n_inputs = tl.load(table + tile * _COLUMNS + 1)
    weight = weights + tl.load(table + tile * _COLUMNS + 2)
    first_output = tl.load(table + tile * _COLUMNS + 3)
    n_outputs = tl.load(table + tile * _COLUMNS + 4)
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
    total = rectified(total + tl.load(biases + tile * WIDTH + unit)[None, :])
    tl.store(
        elements + spectrum[:, None] * PITCH + (first_output + unit)[None, :],
        total,
        mask=there[:, None] & (unit < n_outputs)[None, :],
    )


@triton.jit
def dense_passes(
    pooled,
    weights,
    biases,
    bits,
    hidden,
    POOLED_PITCH: tl.constexpr,
    PITCH: tl.constexpr,
    SITE: tl.constexpr,
    HIDDEN_PITCH: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    STEP: tl.constexpr,
):
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
        some, kernel = tl.load(left + first), tl.load(right + first)
        if _INTERPRETED:
            some, kernel = some.to(tl.float32), kernel.to(tl.float32)
        total = tl.dot(some, kernel, total, input_precision="ieee")
    total = rectified(total + tl.load(biases + unit)[None, :])
    total = tl.where(kept_units(bits, row, unit, PITCH, SITE) != 0, total, 0.0)
    tl.store(hidden + row[:, None] * HIDDEN_PITCH + unit[None, :], total)


@triton.jit
def _second_layer(
    inputs,
    row,
    bits,
    table,
    weights,
    biases,
    tile,
    PITCH: tl.constexpr,
    SITE: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
):
    """A tile of a dense layer with ReLU, whose inputs are dropped where ``SITE`` is not None.

    ``inputs`` points to the first input of each row.
    """
    inputs += tl.load(table + tile * _COLUMNS)
    n_inputs = tl.load(table + tile * _COLUMNS + 1)
    weights += tl.load(table + tile * _COLUMNS + 2)
    unit = tl.arange(0, WIDTH)
    total = tl.zeros([row.shape[0], WIDTH], tl.float32)
    for first in range(0, n_inputs, STEP):
        step = first + tl.arange(0, STEP)
        seen = tl.load(inputs[:, None] + step[None, :], (step < n_inputs)[None, :], 0.0)
        if SITE is not None:
            first_input = tl.load(table + tile * _COLUMNS)
            kept = kept_units(bits, row, first_input + step, PITCH, SITE)
            seen = tl.where(kept != 0, seen, 0.0)
        kernel = tl.load(weights + step[:, None] * WIDTH + unit[None, :])
        total = tl.dot(seen, kernel, total, input_precision="ieee")
    return rectified(total + tl.load(biases + tile * WIDTH + unit)[None, :])


@triton.jit
def _with_head(total, second, heads, tile):
    """The outputs with what they take from a tile's units."""
    unit = tile * second.shape[1] + tl.arange(0, second.shape[1])
    output = tl.arange(0, total.shape[1])
    head = tl.load(heads + unit[:, None] * total.shape[1] + output[None, :])
    return tl.dot(second, head, total, input_precision="ieee")


@triton.jit(do_not_specialize=["first_pass", "n_passes", "all_passes", "n_spectra"])
def finish_passes(
    hidden,
    elements,
    bits,
    table,
    weights,
    biases,
    heads,
    output_biases,
    outputs,
    first_pass,
    n_passes,
    all_passes,
    n_spectra,
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
):
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
        unit = tl.load(table + tile * _COLUMNS + 3) + tl.arange(0, WIDTH)
        second = tl.where(kept_units(bits, row, unit, PITCH, ELEMENT2) != 0, second, 0.0)
        total = _with_head(total, second, heads, tile)
    output = tl.arange(0, OUTPUTS)
    total += tl.load(output_biases + output)[None, :]
    place = spectrum * all_passes + first_pass + row % n_passes
    tl.store(outputs + place[:, None] * OUTPUTS + output[None, :], total, there[:, None])


@triton.jit(do_not_specialize=["n_passes"])
def summarise_passes(
    outputs,
    largest,
    results,
    n_passes,
    LIMIT: tl.constexpr,
    LABELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PASSES: tl.constexpr,
):
    """Mean and total standard deviation of a spectrum, as ``engine.summarise``.

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

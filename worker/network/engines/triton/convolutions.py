"""The GPU engine's convolutions, in Triton: from normalised flux to the second dropout.

A lane works at one position, whatever else is computed. Launched by
``worker.network.engines.triton.engine``.
"""

import triton
import triton.language as tl

from worker.network.model import FILTERS, KERNEL, PADDING, POOL
from worker.spectra.pixels import N_PIXELS

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


@triton.jit
def rectified(values):
    """ReLU; what is not a number stays so."""
    return tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def convolve_spectra(spectra, weights, convolved, BLOCK: tl.constexpr):
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
        total = rectified(total + weights[_CHANNELS * _KERNEL + channel])
        row = spectrum * _CHANNELS + channel
        inside = place < _CONVOLVED_PITCH
        tl.store(convolved + row * _CONVOLVED_PITCH + place, tl.where(real, total, 0.0), inside)


@triton.jit(do_not_specialize=["n_passes"])
def pool_passes(
    convolved,
    bits,
    weights,
    pooled,
    n_passes,
    PITCH: tl.constexpr,
    CONV1: tl.constexpr,
    POOLED: tl.constexpr,
    POOLED_PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    PASSES: tl.constexpr,
):
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
def _thinned(inputs, masks):
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
def _pooled(seen, weights, kept, output: tl.constexpr):
    """A channel of the second convolution with its pooling, ReLU and dropout."""
    largest = tl.full(kept.shape, float("-inf"), tl.float32)
    for phase in tl.static_range(_POOL):
        total = tl.zeros(kept.shape, tl.float32)
        for channel in tl.static_range(_CHANNELS):
            for tap in tl.static_range(_KERNEL):
                weight = weights[(output * _CHANNELS + channel) * _KERNEL + tap]
                total += seen[channel * _SEEN + phase + tap] * weight
        largest = tl.maximum(largest, total, propagate_nan=tl.PropagateNan.ALL)
    value = rectified(largest + weights[_OUTPUTS * _CHANNELS * _KERNEL + output])
    return tl.where((kept.to(tl.int32) & (1 << (2 * output))) != 0, value, 0.0)

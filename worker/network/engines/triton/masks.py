"""The GPU engine's masks, in Triton: bits that one kernel draws and the others read.

A call of the generator becomes a byte, so that no other kernel need draw a number again where it
meets its unit twice. Launched by ``worker.network.engines.triton.engine``.
"""

import triton
import triton.language as tl

from worker.network.masks import NUMBERS_PER_BLOCK, THRESHOLD
from worker.network.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

_ROUNDS = tl.constexpr(ROUNDS)
_MULTIPLIER_0, _MULTIPLIER_1 = (tl.constexpr(number) for number in MULTIPLIERS)
_KEY_STEP_0, _KEY_STEP_1 = (tl.constexpr(number) for number in KEY_STEPS)
_THRESHOLD = tl.constexpr(THRESHOLD)
_NUMBERS = tl.constexpr(NUMBERS_PER_BLOCK)


@triton.jit
def philox_words(block, site, number, key0, key1):
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
    keys,
    calls,
    bits,
    first_pass,
    n_passes,
    PITCH: tl.constexpr,
    BLOCK: tl.constexpr,
    PASSES: tl.constexpr,
):
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
def kept_units(bits, row, unit, PITCH: tl.constexpr, SITE: tl.constexpr):
    """Which units of a tile are kept, one or zero; the site's bytes begin at ``SITE``."""
    byte = tl.load(bits + row[:, None] * PITCH + (SITE + unit // _NUMBERS)[None, :])
    return (byte.to(tl.int32) >> (unit % _NUMBERS)[None, :]) & 1

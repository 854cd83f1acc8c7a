"""Vectors of sixteen numbers in LLVM's own language, and dropout's generator on them.

LLVM splits the vectors where a CPU has shorter ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import config
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features

from worker.network.masks import THRESHOLD
from worker.network.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

LANES = 16

_I16, INT32, INT64, FLOAT32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
WORDS, _PAIRS = ir.VectorType(INT32, LANES), ir.VectorType(INT64, LANES // 2)
_HALVES = ir.VectorType(_I16, 2 * LANES)
FLOATS, _SHORTS = ir.VectorType(FLOAT32, LANES), ir.VectorType(_I16, LANES)
_FUSED = ("contract",)
#: The words of sixteen lanes: those of even lanes and those of odd ones.
_Apart = tuple[Any, Any]

ZEROS = ir.Constant(FLOATS, [0.0] * LANES)


def cpu_has(feature: str) -> bool:
    """Whether numba compiles for a CPU with a feature, as LLVM calls it."""
    features: str = config.CPU_FEATURES or get_host_cpu_features()
    return f"+{feature}" in features.split(",")


def integer(number: int) -> Any:
    """A 64-bit integer, as indices are."""
    return ir.Constant(INT64, number)


def written(write: Callable[..., None], *arguments: Any) -> Any:
    """The signature of an intrinsic without a result, and what writes it."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        write(Vectors(context, builder, signature), *values)
        return context.get_dummy_value()

    return types.none(*arguments), codegen


class Vectors:
    """An IR builder for the arguments of one call."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.builder, self.types = context, builder, signature.args

    def pointer(self, position: int, array: Any, index: Any, vector: Any) -> Any:
        """The address of an element of the array that is the call's argument ``position``."""
        data = self.context.make_array(self.types[position])(self.context, self.builder, array).data
        return self.builder.bitcast(self.builder.gep(data, [index]), vector.as_pointer())

    def load(self, position: int, array: Any, index: Any, vector: Any = FLOATS) -> Any:
        """Neighbours in the array that is the call's argument ``position``."""
        return self.builder.load(self.pointer(position, array, index, vector), align=2)

    def store(self, position: int, array: Any, index: Any, value: Any) -> None:
        """Store neighbours in the array that is the call's argument ``position``."""
        self.builder.store(value, self.pointer(position, array, index, value.type), align=2)

    def at(self, index: Any, offset: int) -> Any:
        """An index further on."""
        return self.builder.add(index, integer(offset))

    def splat(self, value: Any, vector: Any) -> Any:
        """One value in all lanes."""
        first = self.builder.insert_element(
            ir.Constant(vector, ir.Undefined), value, ir.Constant(INT32, 0)
        )
        zeros = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
        return self.builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

    def counted(self, first: Any) -> Any:
        """``first`` to ``first + 15``, of a 64-bit number, as 32-bit words."""
        word = self.splat(self.builder.trunc(first, INT32), WORDS)
        return self.builder.add(word, ir.Constant(WORDS, list(range(LANES))))

    def multiply_add(self, left: Any, right: Any, total: Any) -> Any:
        """Rounded once where the CPU can, so results of two kinds of CPU differ in last bits."""
        return self.builder.fadd(self.builder.fmul(left, right, flags=_FUSED), total, flags=_FUSED)

    def add_products(self, left: Any, right: Any, total: Any) -> Any:
        """Add the products of pairs of bfloat16, each pair a lane's word."""
        if cpu_has("avx512bf16"):
            kind = ir.FunctionType(FLOATS, [FLOATS, WORDS, WORDS])
            name = "llvm.x86.avx512bf16.dpbf16ps.512"
            function = cgutils.get_or_insert_function(self.builder.module, kind, name)
            return self.builder.call(function, [total, left, right])
        for part in (self._low_half, self._high_half):
            total = self.multiply_add(part(left), part(right), total)
        return total

    def _low_half(self, words: Any) -> Any:
        return self.builder.bitcast(
            self.builder.shl(words, ir.Constant(WORDS, [16] * LANES)), FLOATS
        )

    def _high_half(self, words: Any) -> Any:
        mask = ir.Constant(WORDS, [0xFFFF0000] * LANES)
        return self.builder.bitcast(self.builder.and_(words, mask), FLOATS)

    def largest(self, left: Any, right: Any) -> Any:
        """The larger one in each lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", left, right), left, right)

    def rectified(self, value: Any) -> Any:
        """ReLU; what is not a number stays so."""
        zero = ZEROS
        return self.builder.select(self.builder.fcmp_unordered(">", value, zero), value, zero)

    def thinned(self, keep: Any, value: Any) -> Any:
        """What dropout leaves."""
        return self.builder.select(keep, value, ZEROS)

    def philox(self, counter: list[Any], key: tuple[Any, Any]) -> list[Any]:
        """Philox; words that are the same for all lanes stay scalar as long as they are.

        CPUs multiply words at even and at odd places apart, so they stay apart, in the lower
        halves of 64 bits, until the last round. The upper halves hold what is left of products.
        """
        builder = self.builder
        a, b, c, d = (self._apart(word) for word in counter)
        first, second = (builder.trunc(word, INT32) for word in key)
        for number in range(ROUNDS):
            if number:
                first = builder.add(first, ir.Constant(INT32, KEY_STEPS[0]))
                second = builder.add(second, ir.Constant(INT32, KEY_STEPS[1]))
            (left_high, left), (right_high, right) = (
                self._product(word, factor)
                for word, factor in zip((a, c), MULTIPLIERS, strict=True)
            )
            a, b = self._xor(self._xor(b, first), right_high), right
            c, d = self._xor(self._xor(d, second), left_high), left
        return [self._together(word) for word in (a, b, c, d)]

    def _apart(self, word: Any) -> Any:
        if not isinstance(word.type, ir.VectorType):
            return word
        even = self.builder.bitcast(word, _PAIRS)
        return even, self._upper(even)

    def _together(self, word: _Apart) -> Any:
        even, odd = (self.builder.bitcast(part, WORDS) for part in word)
        places = ir.Constant(
            WORDS, [n + LANES * odds for n in range(0, LANES, 2) for odds in (0, 1)]
        )
        return self.builder.shuffle_vector(even, odd, places)

    def _upper(self, pairs: Any) -> Any:
        return self.builder.lshr(pairs, ir.Constant(_PAIRS, [32] * (LANES // 2)))

    def _product(self, word: Any, factor: int) -> tuple[Any, Any]:
        """The high and the low word of each product."""
        builder = self.builder
        if isinstance(word, tuple):
            factors, low_halves = (
                ir.Constant(_PAIRS, [number] * (LANES // 2)) for number in (factor, 2**32 - 1)
            )
            full = tuple(builder.mul(builder.and_(part, low_halves), factors) for part in word)
            return tuple(map(self._upper, full)), full
        product = builder.mul(builder.zext(word, INT64), integer(factor))
        high = builder.lshr(product, integer(32))
        return builder.trunc(high, INT32), builder.trunc(product, INT32)

    def _xor(self, left: Any, right: Any) -> Any:
        if isinstance(left, tuple) or isinstance(right, tuple):
            pairs = zip(self._in_all(left), self._in_all(right), strict=True)
            return tuple(self.builder.xor(*pair) for pair in pairs)
        return self.builder.xor(left, right)

    def _in_all(self, word: Any) -> _Apart:
        if isinstance(word, tuple):
            return word
        return (self.splat(self.builder.zext(word, INT64), _PAIRS),) * 2

    def kept(self, word: Any) -> tuple[Any, Any]:
        """Which lanes keep the unit of a word's low half and that of its high half."""
        shift = ir.Constant(WORDS, [16] * LANES)
        limit = ir.Constant(WORDS, [THRESHOLD << 16] * LANES)
        low = self.builder.icmp_unsigned(">=", self.builder.shl(word, shift), limit)
        return low, self.builder.icmp_unsigned(">=", word, limit)

    def kept_in_order(self, word: Any) -> tuple[Any, Any]:
        """Which of 32 neighbours are kept, whose numbers are the halves of sixteen words."""
        limit = ir.Constant(_HALVES, [THRESHOLD] * (2 * LANES))
        keep = self.builder.icmp_unsigned(">=", self.builder.bitcast(word, _HALVES), limit)
        order = ir.VectorType(INT32, LANES)
        first, second = (
            self.builder.shuffle_vector(keep, keep, ir.Constant(order, list(range(n, n + LANES))))
            for n in (0, LANES)
        )
        return first, second

    def counter(self, block: Any, site: int, number: Any) -> list[Any]:
        """The counter of a block and a pass at a site."""
        word = self.builder.trunc(number, INT32)
        return [block, ir.Constant(INT32, site), word, ir.Constant(INT32, 0)]

    def bfloat16(self, value: Any) -> Any:
        """The upper halves of floats, rounded to even."""
        bits = self.builder.bitcast(value, WORDS)
        shift, one, half = (ir.Constant(WORDS, [n] * LANES) for n in (16, 1, 0x7FFF))
        odd = self.builder.and_(self.builder.lshr(bits, shift), one)
        rounded = self.builder.add(self.builder.add(bits, half), odd)
        return self.builder.trunc(self.builder.lshr(rounded, shift), _SHORTS)

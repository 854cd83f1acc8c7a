"""Vectors of sixteen numbers in LLVM's own language, and dropout's generator on them.

LLVM splits the vectors where a CPU has shorter ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from worker.network.masks import THRESHOLD
from worker.network.philox import KEY_STEPS, MULTIPLIERS, ROUNDS

LANES = 16

_I16, INT32, INT64, FLOAT32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
WORDS, _PAIRS = ir.VectorType(INT32, LANES), ir.VectorType(INT64, LANES // 2)
_HALVES = ir.VectorType(_I16, 2 * LANES)
FLOATS, _SHORTS = ir.VectorType(FLOAT32, LANES), ir.VectorType(_I16, LANES)
_FUSED = ("contract",)


ZEROS = ir.Constant(FLOATS, [0.0] * LANES)


def integer(number: int) -> Any:
    """A 64-bit integer, as indices are."""
    return ir.Constant(INT64, number)


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
        """Philox; words that are the same for all lanes stay scalar as long as they are."""
        builder = self.builder
        a, b, c, d = counter
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
        return [self._vector(word) for word in (a, b, c, d)]

    def _product(self, word: Any, factor: int) -> tuple[Any, Any]:
        """The high and the low word of each product."""
        if isinstance(word.type, ir.VectorType):
            return self._products(word, factor)
        full = self.builder.mul(self.builder.zext(word, INT64), integer(factor))
        high = self.builder.lshr(full, integer(32))
        return self.builder.trunc(high, INT32), self.builder.trunc(full, INT32)

    def _products(self, words: Any, factor: int) -> tuple[Any, Any]:
        """Words at even and at odd places apart, which is how CPUs multiply them."""
        builder = self.builder
        factors, low_halves, shift = (
            ir.Constant(_PAIRS, [number] * (LANES // 2)) for number in (factor, 2**32 - 1, 32)
        )
        pairs = builder.bitcast(words, _PAIRS)
        even = builder.mul(builder.and_(pairs, low_halves), factors)
        odd = builder.mul(builder.lshr(pairs, shift), factors)
        even, odd = builder.bitcast(even, WORDS), builder.bitcast(odd, WORDS)
        high, low = (
            ir.Constant(WORDS, [n + LANES * odds for n in places for odds in (0, 1)])
            for places in (range(1, LANES, 2), range(0, LANES, 2))
        )
        return builder.shuffle_vector(even, odd, high), builder.shuffle_vector(even, odd, low)

    def _xor(self, left: Any, right: Any) -> Any:
        if left.type != right.type:
            left, right = self._vector(left), self._vector(right)
        return self.builder.xor(left, right)

    def _vector(self, word: Any) -> Any:
        return word if isinstance(word.type, ir.VectorType) else self.splat(word, WORDS)

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

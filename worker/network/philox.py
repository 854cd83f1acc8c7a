"""The random numbers of dropout: the counter-based generator Philox4x32 with seven rounds.

Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3". Seven rounds
are the fewest with which it passes every test of BigCrush. ``docs/mc_dropout.md`` says how it is
used. This is the plain form in numpy; the engines have faster ones that give the same bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUNDS = 7
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
#: What is added to the two words of the key after each round: golden ratio, sqrt(3) - 1.
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF

Words = NDArray[np.uint64]


def philox_key(seed: int, mask_key: str) -> tuple[int, int]:
    """The key of a spectrum: BLAKE2b with 8 bytes, as two little-endian 32-bit words."""
    digest = hashlib.blake2b(f"{seed}/{mask_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def round_keys(key: tuple[int, int], rounds: int = ROUNDS) -> list[tuple[int, int]]:
    """The two key words of each round."""
    first, second = KEY_STEPS
    return [((key[0] + n * first) & _WORD, (key[1] + n * second) & _WORD) for n in range(rounds)]


def philox(counter: NDArray[np.integer], key: tuple[int, int], rounds: int = ROUNDS) -> Words:
    """Philox4x32 of many counters under one key.

    Parameters
    ----------
    counter
        ``(..., 4)``: the four 32-bit words of each counter.
    key
        Two 32-bit words.

    Returns
    -------
    numpy.ndarray
        ``(..., 4)``, uint64: the four 32-bit words that belong to each counter.
    """
    a, b, c, d = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    word, half = np.uint64(_WORD), np.uint64(32)
    for first, second in round_keys(key, rounds):
        left, right = np.uint64(MULTIPLIERS[0]) * a, np.uint64(MULTIPLIERS[1]) * c
        a, c = (right >> half) ^ b ^ np.uint64(first), (left >> half) ^ d ^ np.uint64(second)
        b, d = right & word, left & word
    return np.stack([a, b, c, d], axis=-1)

"""What is measured: ways of doing the same work, in alternating rounds, and the floor of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

#: A way of doing the work.
Way = Callable[[], object]
#: Told what is being measured now.
Tell = Callable[[str], None]

#: Seconds after which a way runs no further round: the plain loop takes 36 for a large batch.
_PATIENCE = 15.0


@dataclass(frozen=True)
class Measured:
    """One way of doing one piece of work.

    Attributes
    ----------
    case, way
        What was done, and how.
    spectra, rounds
        How many at a time, and how often that was timed.
    seconds
        Of a spectrum; the median of the rounds.
    ratio
        How many times as long the plain way took in the same rounds; the median of them.
    floor
        Seconds of a spectrum that no code on this machine gets below.
    peak_mb
        The most memory that it held.
    p99
        Seconds that 99 of 100 spectra stay below, where spectra are timed one by one.
    """

    case: str
    way: str
    spectra: int
    rounds: int
    seconds: float
    ratio: float
    floor: float
    peak_mb: float | None = None
    p99: float | None = None

    @property
    def per_second(self) -> float:
        """Spectra per second."""
        return 1 / self.seconds

    @property
    def reached(self) -> float:
        """The fraction of the floor's speed."""
        return self.floor / self.seconds


def alternate(
    ways: Mapping[str, Way],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    patience: float = _PATIENCE,
    tell: Tell = lambda _: None,
) -> dict[str, list[float]]:
    """Seconds of each way, round by round.

    Ways take turns, so that what else the machine does falls on all of them. A first round warms
    up and is not counted. A way that has used up ``patience`` seconds runs no more rounds, but
    each runs one.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            times = taken[name]
            if times and sum(times) + statistics.mean(times) > patience:
                continue
            tell(f"{name}, {f'round {number} of {rounds}' if number else 'warming up'}")
            started = clock()
            way()
            if number:
                times.append(clock() - started)
    return taken


def ratio(plain: Sequence[float], other: Sequence[float]) -> float:
    """How many times as long the plain way took: the median over the other way's rounds.

    Each round is compared with the plain one of the same number, or with the last there is.
    """
    last = len(plain) - 1
    return statistics.median(
        plain[min(number, last)] / seconds for number, seconds in enumerate(other)
    )


def compare(
    case: str,
    seconds: Mapping[str, Sequence[float]],
    spectra: Mapping[str, int],
    *,
    plain: str,
    floors: Mapping[str, float],
    peaks: Mapping[str, float | None],
) -> list[Measured]:
    """The ways of one piece of work beside the plain one.

    Parameters
    ----------
    seconds
        Of each way, of a spectrum, round by round.
    spectra
        How many each way takes at a time.
    plain
        The name of the plain way among them; without it there are no ratios, but NaN.
    """
    rows = []
    for way, times in seconds.items():
        against = ratio(seconds[plain], times) if plain in seconds else float("nan")
        rows.append(
            Measured(
                case=case,
                way=way,
                spectra=spectra[way],
                rounds=len(times),
                seconds=statistics.median(times),
                ratio=against,
                floor=floors[way],
                peak_mb=peaks.get(way),
            )
        )
    return rows

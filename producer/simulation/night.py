"""A simulated survey that arrives live: files drop into the folder as a night's reduction would.

They come in bursts. Some stars come back with one more visit: their file is then written anew,
with new coadds, as a reduction does it. At the end the files are those that
:func:`producer.simulation.survey.write_survey` writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producer.simulation.survey import Survey, Told, check_room, write_star
from producer.simulation.truth import Truth

#: Seconds between bursts where files come faster than that; else one comes at a time.
_BETWEEN_BURSTS = 10.0
#: Part of the files that are those of stars that come back.
_RETURNING = 0.4
#: Keeps the night's random numbers apart from those of the stars.
_NIGHT = 2**40


@dataclass(frozen=True)
class Arrival:
    """A star's file with so many visits."""

    star: int
    visits: int


def bursts(survey: Survey, rate: float, planned: Callable[[int], int]) -> Iterator[list[Arrival]]:
    """What arrives, burst by burst: each star once for each of its visits.

    Parameters
    ----------
    rate
        Files per minute.
    planned
        How many visits a star gets in all; asked when its first file has been handed out.
    """
    rng = np.random.default_rng([survey.seed, _NIGHT])
    most = max(1, round(2 * rate * _BETWEEN_BURSTS / 60) - 1)
    new, waiting = iter(range(survey.stars)), list[Arrival]()
    while True:
        burst = list(_burst(rng, int(rng.integers(1, most + 1)), new, waiting))
        if not burst:
            return
        yield burst
        waiting += [
            Arrival(arrival.star, arrival.visits + 1)
            for arrival in burst
            if arrival.visits < planned(arrival.star)
        ]


def _burst(
    rng: np.random.Generator, size: int, new: Iterator[int], waiting: list[Arrival]
) -> Iterator[Arrival]:
    for _ in range(size):
        back = rng.random() < _RETURNING
        star = None if back and waiting else next(new, None)
        if star is not None:
            yield Arrival(star, 1)
        elif waiting:
            yield waiting.pop(int(rng.integers(len(waiting))))
        else:
            return


def write_live(survey: Survey, folder: Path, truth: Truth, rate: float, told: Told) -> None:
    """Write the files of a survey that are not there yet, so many per minute.

    Parameters
    ----------
    truth
        That of the folder, as :meth:`Truth.of` gives it; it is saved after each burst.
    rate
        Files per minute, on the average.

    Raises
    ------
    UsageError
        The disk has no room for the survey.
    FatalError
        A file cannot be written.
    """
    check_room(survey, folder, survey.stars - len(truth))

    def visits_of(star: int) -> tuple[int, int]:
        row = truth.row(star)
        return (0, 0) if row is None else (row.n_visits, row.n_visits_planned)

    started, written = time.monotonic(), 0
    for burst in bursts(survey, rate, lambda star: visits_of(star)[1]):
        due = [arrival for arrival in burst if arrival.visits > visits_of(arrival.star)[0]]
        if not due:
            continue
        _wait_until(started + written * 60 / rate)
        try:
            for arrival in due:
                [(star, visits)] = survey.observe([arrival.star])
                file = write_star(survey, folder, arrival.star, star, visits, arrival.visits)
                truth.add(file.row)
                told(file)
        finally:
            truth.save()
        written += len(due)


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))

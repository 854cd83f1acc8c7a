"""A simulated survey: many stars, written as apStar files by several processes."""

from __future__ import annotations

import math
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from producer.process_pool import check_semaphores, depend_on_parent
from producer.simulation.apstar_file import StarWriter
from producer.simulation.headers import median_snr
from producer.simulation.layouts import encode
from producer.simulation.names import star_path
from producer.simulation.observation import Layout, Star, Visits
from producer.simulation.observe import Observing, simulate_stars
from producer.simulation.star_models import Model
from producer.simulation.truth import Truth, TruthRow
from worker.errors import FatalError, UsageError
from worker.spectra.pixels import N_APSTAR

LAYOUTS: tuple[Layout, ...] = ("dr13", "dr17", "sdss5")
#: Stars that a process makes at a time.
_CHUNK = 16
#: A process takes about as long to start as to make so many stars.
_WORTH_A_PROCESS = 100
#: Bytes of a pixel in the seven images of a row.
_PIXEL_BYTES: dict[Layout, int] = {"dr13": 26, "dr17": 56, "sdss5": 56}
#: Headers, tables and padding of a file.
_OTHER_BYTES = 40_000


@dataclass(frozen=True)
class Survey:
    """What makes a survey what it is: the same settings give the same bytes in every file.

    Attributes
    ----------
    stars
        How many.
    visits
        Most visits to a star.
    seed
        Of all that is random.
    layout
        That of the files; ``mixed`` takes the three in turn.
    snr
        The S/N per pixel of visits, lowest and highest.
    like
        The models of real stars that the stars are like, in turn; none for the line list.
    """

    stars: int
    visits: int = 3
    seed: int = 0
    layout: Layout | Literal["mixed"] = "sdss5"
    snr: tuple[float, float] = (10.0, 250.0)
    like: tuple[Model, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The settings as plain values, as the truth keeps them."""
        like = [model.value for model in self.like]
        plain = {**asdict(self), "snr": list(self.snr), "like": like}
        # Surveys of the line list were there before, and are gone on with.
        return {name: value for name, value in plain.items() if name != "like" or like}

    def layout_of(self, star: int) -> Layout:
        """The layout of a star's file."""
        return LAYOUTS[star % len(LAYOUTS)] if self.layout == "mixed" else self.layout

    def observe(self, stars: Sequence[int]) -> list[tuple[Star, Visits]]:
        """Stars by their numbers, with all their visits."""
        observing = Observing(visits=self.visits, snr=self.snr, models=self.like)
        return simulate_stars(self.seed, stars, observing)

    def expected_bytes(self) -> float:
        """About how much room the files take."""
        layouts = LAYOUTS if self.layout == "mixed" else (self.layout,)
        rows = [n + 2 if n > 1 else 1 for n in range(1, self.visits + 1)]
        pixels = N_APSTAR * sum(rows) / len(rows)
        bytes_each = sum(_PIXEL_BYTES[layout] for layout in layouts) / len(layouts)
        return self.stars * (pixels * bytes_each + _OTHER_BYTES)


@dataclass(frozen=True)
class Written:
    """A file that has been written, and its size in bytes."""

    row: TruthRow
    size: int


#: Told of each file that has been written.
Told = Callable[[Written], None]


def write_survey(survey: Survey, folder: Path, truth: Truth, processes: int, told: Told) -> None:
    """Write the files of a survey that are not there yet, and its truth.

    Whatever ends it, the truth then knows the files that were finished, and the same call goes
    on from there.

    Parameters
    ----------
    truth
        That of the folder, as :meth:`Truth.of` gives it.
    processes
        How many to share the work among, at most; 1 does it here, as does little work.

    Raises
    ------
    UsageError
        The disk has no room for the survey.
    FatalError
        A file cannot be written, or a process was killed.
    """
    rows = ((star, truth.row(star)) for star in range(survey.stars))
    missing = [star for star, row in rows if row is None or not row.complete]
    check_room(survey, folder, len(missing))

    def record(written: Written) -> None:
        if truth.knows(written.row):  # an interruption came after it had been recorded
            return
        truth.add(written.row)
        told(written)
        truth.save_sometimes()

    chunks = [missing[first : first + _CHUNK] for first in range(0, len(missing), _CHUNK)]
    processes = min(processes, math.ceil(len(missing) / _WORTH_A_PROCESS))
    try:
        if processes < 2:
            for chunk in chunks:
                for written in write_stars(survey, folder, chunk):
                    record(written)
        else:
            _share(survey, folder, chunks, processes, record)
    finally:
        truth.save()


def check_room(survey: Survey, folder: Path, stars: int) -> None:
    """Raise where the disk has no room for so many of a survey's stars.

    Raises
    ------
    UsageError
        It has not.
    """
    needed = survey.expected_bytes() * stars / survey.stars
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"The survey takes about {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB "
            "free; ask for fewer --stars or --visits, or for --layout dr13, which takes half."
        )


def write_stars(survey: Survey, folder: Path, stars: Sequence[int]) -> Iterator[Written]:
    """Write the files of stars by their numbers, each with all its visits."""
    for number, (star, visits) in zip(stars, survey.observe(stars), strict=True):
        yield write_star(survey, folder, number, star, visits, len(visits.snr))


def write_star(
    survey: Survey, folder: Path, number: int, star: Star, visits: Visits, count: int
) -> Written:
    """Write the file of a star with its first ``count`` visits.

    Raises
    ------
    FatalError
        It cannot be written.
    """
    layout = survey.layout_of(number)
    seen = first_visits(visits, count)
    planes = encode(seen, layout)
    path = star_path(star, layout)
    try:
        size = _writer().write(folder / path, star, seen, layout, planes)
    except OSError as error:
        reason = error.strerror or error
        raise FatalError(f"{folder / path} cannot be written: {reason}.") from error
    row = TruthRow(
        star=number,
        path=str(path),
        obj=star.obj,
        layout=layout,
        telescope=star.telescope,
        n_visits=count,
        n_visits_planned=len(visits.snr),
        snr=median_snr(planes, 0),
        v_helio=star.v_helio,
        ra=star.ra,
        dec=star.dec,
        labels=tuple(star.labels.tolist()),
    )
    return Written(row, size)


def first_visits(visits: Visits, count: int) -> Visits:
    """The first visits in time, as if the others were still to come."""
    return Visits(**{field.name: getattr(visits, field.name)[:count] for field in fields(Visits)})


@cache
def _writer() -> StarWriter:
    """That of this process."""
    return StarWriter()


def _share(
    survey: Survey, folder: Path, chunks: list[list[int]], processes: int, record: Told
) -> None:
    """Let processes write chunks of stars; record what they finish, also when interrupted."""
    check_semaphores()
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=depend_on_parent,
    )
    open_chunks = {pool.submit(_write_chunk, survey, folder, chunk) for chunk in chunks}
    try:
        for done in as_completed(open_chunks.copy()):
            _record_chunk(done, record)
            open_chunks.discard(done)
    except BrokenProcessPool as error:
        raise FatalError(
            "A process that wrote files was killed, perhaps for want of memory; the same command "
            "with fewer --processes goes on where it stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        for chunk in open_chunks:
            if not chunk.cancelled() and chunk.exception() is None:
                _record_chunk(chunk, record)


def _record_chunk(chunk: Future[list[Written]], record: Told) -> None:
    for written in chunk.result():
        record(written)


def _write_chunk(survey: Survey, folder: Path, stars: Sequence[int]) -> list[Written]:
    return list(write_stars(survey, folder, stars))

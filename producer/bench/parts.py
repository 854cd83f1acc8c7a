"""The parts of the benchmark, and how much of each is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from producer.bench.measured import Measured, Tell
from producer.bench.spectra import simulate_files
from producer.simulation.observation import Layout
from producer.simulation.survey import LAYOUTS
from worker.identity import COADD
from worker.settings import Settings

#: A round of the stream takes many seconds.
_STREAM_ROUNDS = 3
#: Visits to a star of the stream at most; a star has so many spectra then, its coadd included.
_VISITS, _SPECTRA_OF_A_STAR = 2, 2.5


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes
    ----------
    batches
        Sizes of batches for the engines.
    rounds
        How often each way is timed, at most.
    spectra, plain_spectra
        About how many go through the stream and through the plain pipeline.
    layouts, stars
        Eras of the files that are simulated for loading, and how many of each.
    visits
        How many are timed one by one.
    """

    batches: tuple[int, ...]
    rounds: int
    spectra: int
    plain_spectra: int = 128
    layouts: tuple[Layout, ...] = LAYOUTS
    stars: int = 30
    visits: int = 40

    def quick(self) -> Options:
        """So little that it only shows that everything works."""
        return replace(
            self,
            batches=tuple(each for each in self.batches if each <= 16) or self.batches[:1],
            rounds=1,
            spectra=min(self.spectra, 60),
            plain_spectra=16,
            layouts=LAYOUTS[-1:],
            stars=3,
            visits=5,
        )


def measure(
    part: str, settings: Settings, options: Options, folder: Path, files: Path | None, tell: Tell
) -> list[Measured]:
    """Measure one part.

    Parameters
    ----------
    folder
        A new one, for simulated files.
    files
        The user's own files, which loading is measured on too.
    """
    match part:
        case "engine":
            from producer.bench.engines import measure_engines

            return measure_engines(settings, options.batches, options.rounds, tell)
        case "load":
            from producer.bench.loading import measure_loading, measure_own

            counts = (options.stars, options.rounds)
            rows = measure_loading(settings, folder, options.layouts, *counts, tell)
            return rows + (measure_own(settings, files, options.rounds, tell) if files else [])
        case "stream":
            return _measure_stream(settings, options, folder, tell)
        case _:
            return _measure_live(settings, options, folder, tell)


def _measure_stream(
    settings: Settings, options: Options, folder: Path, tell: Tell
) -> list[Measured]:
    from producer.bench.stream import measure_stream

    stars = max(1, round(options.spectra / _SPECTRA_OF_A_STAR))
    tell(f"simulating {stars} stars")
    spectra = simulate_files(folder, stars, _VISITS, processes=settings.loaders + 1)
    rounds = min(options.rounds, _STREAM_ROUNDS)
    return measure_stream(settings, folder, spectra, options.plain_spectra, rounds, tell)


def _measure_live(settings: Settings, options: Options, folder: Path, tell: Tell) -> list[Measured]:
    from producer.bench.live import WARM_UP, measure_live

    tell("simulating visits")
    spectra = simulate_files(folder, options.visits + WARM_UP, visits=1)
    visits = [each for each in spectra if each.member != COADD]
    return measure_live(settings, folder, visits, tell)

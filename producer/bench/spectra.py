"""The spectra to measure with: simulated, or the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from producer.simulation.observation import Layout
from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from producer.sources.files import find_files, spectra_of
from worker.file_names import name_on_disk
from worker.identity import Place
from worker.spectra.pixels import N_APSTAR, N_PIXELS

SurveyLayout = Layout | Literal["mixed"]

#: Seed of the simulated survey and of the noise.
_SEED = 1


def noise(batch: int) -> tuple[NDArray[np.float32], list[str]]:
    """Spectra of noise, ``(batch, 7514)``, and names for them: engines are as fast with any."""
    flux = np.random.default_rng(_SEED).normal(1, 0.1, size=(batch, N_PIXELS)).astype(np.float32)
    return flux, [f"benchmark/{number}" for number in range(batch)]


def simulate_files(
    folder: Path,
    stars: int,
    visits: int,
    layout: SurveyLayout = "mixed",
    *,
    processes: int = 1,
    told: Callable[[int], None] = lambda _: None,
) -> list[Place]:
    """Write the files of a simulated survey; all its spectra, coadds and visits."""
    survey = Survey(stars, visits, _SEED, layout)
    truth = Truth.of(folder, survey.settings())
    write_survey(survey, folder, truth, processes, lambda _: told(1))
    return places(folder)


def places(root: Path) -> list[Place]:
    """The coadd and all visits of each file below a folder.

    Raises
    ------
    UsageError
        There is no such file.
    """
    entries = (each for file in find_files([root], root) for each in spectra_of(file, root, "both"))
    return [Place(each.path, each.member) for each in entries]


def files_of(root: Path, spectra: Sequence[Place]) -> list[Path]:
    """The files that hold spectra, each once."""
    return [root / name_on_disk(path) for path in dict.fromkeys(each.path for each in spectra)]


def bytes_per_spectrum(root: Path, spectra: Sequence[Place]) -> float:
    """Of the rows of flux, error and mask in the files."""
    size = 0
    for path, number in Counter(each.path for each in spectra).items():
        with fits.open(root / name_on_disk(path), memmap=False) as hdus:
            bits = sum(abs(hdus[image].header["BITPIX"]) for image in (1, 2, 3))
        size += number * N_APSTAR * bits // 8
    return size / len(spectra)

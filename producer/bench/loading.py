"""Loading beside astropy and astroNN: whole files with all their spectra, on one core.

The processor's time counts, that of all threads together. Files come from the page cache: it
measures no disk. Before anything is timed, the ways have to agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from producer.bench.measured import Measured, Tell, alternate, compare
from producer.bench.memory import peak_memory
from producer.bench.spectra import bytes_per_spectrum, files_of, places, simulate_files
from producer.simulation.observation import Layout
from worker.errors import FatalError
from worker.identity import Place
from worker.settings import Settings
from worker.spectra.load import load_spectra

PLAIN, KINDER, OURS = "row by row", "file by file", "load stage"
#: How far the ways may differ in normalised flux.
_TOLERANCE = 1e-6
_VISITS = 3

Load = Callable[[Path, Sequence[Place], str], NDArray[np.float32]]


def measure_loading(
    settings: Settings,
    folder: Path,
    layouts: Sequence[Layout],
    stars: int,
    rounds: int,
    tell: Tell,
) -> list[Measured]:
    """Simulated files of some eras."""
    rows = []
    for layout in layouts:
        tell(f"simulating {layout} files")
        below = folder / layout
        spectra = simulate_files(below, stars, _VISITS, layout)
        rows += compare_loading(f"{layout}, simulated", settings, below, spectra, rounds, tell)
    return rows


def measure_own(settings: Settings, folder: Path, rounds: int, tell: Tell) -> list[Measured]:
    """The user's own files; spectra that cannot be used are left out.

    Raises
    ------
    FatalError
        None of them can.
    """
    tell("reading headers")
    root = folder.resolve()
    loaded = load_spectra(places(root), root, settings.coadd_mask)
    if not loaded.spectra:
        raise FatalError(f"No spectrum below {folder} can be loaded.")
    return compare_loading(folder.name, settings, root, loaded.spectra, rounds, tell)


def compare_loading(
    case: str,
    settings: Settings,
    folder: Path,
    spectra: Sequence[Place],
    rounds: int,
    tell: Tell,
) -> list[Measured]:
    """All ways of loading spectra.

    Raises
    ------
    FatalError
        They do not agree.
    """
    from producer.bench.floors import loading_floor

    files = files_of(folder, spectra)
    case = f"{case}: {len(files)} files, {len(spectra)} spectra"
    tell(f"{case}: comparing")
    loads = {
        way: partial(load, folder, spectra, settings.coadd_mask) for way, load in ways().items()
    }
    check_agreement(case, {way: load() for way, load in loads.items()})
    taken = alternate(
        loads, rounds, clock=time.process_time, tell=lambda what: tell(f"{case}: {what}")
    )
    floor = loading_floor(files, bytes_per_spectrum(folder, spectra))
    tell(f"{case}: memory")
    return compare(
        case,
        {way: [each / len(spectra) for each in times] for way, times in taken.items()},
        dict.fromkeys(loads, len(spectra)),
        plain=PLAIN,
        floors=dict.fromkeys(taken, floor),
        peaks={way: _peak(way, settings, folder, spectra) for way in taken},
    )


def ways() -> dict[str, Load]:
    """All ways of loading; astroNN, which takes seconds to import, is imported here."""
    from producer.bench.plain_loading import file_by_file, row_by_row

    return {PLAIN: row_by_row, KINDER: file_by_file, OURS: load_stage}


def load_stage(folder: Path, spectra: Sequence[Place], coadd_mask: str) -> NDArray[np.float32]:
    """Our way.

    Raises
    ------
    FatalError
        A spectrum could not be loaded.
    """
    loaded = load_spectra(spectra, folder, coadd_mask)
    for _, reason in loaded.failures:
        raise FatalError(reason)
    return loaded.flux


def check_agreement(case: str, flux: Mapping[str, NDArray[np.float32]]) -> None:
    """Make sure that all ways give the same normalised flux.

    Raises
    ------
    FatalError
        They do not.
    """
    for way, found in flux.items():
        if not np.allclose(found, flux[PLAIN], rtol=_TOLERANCE, atol=_TOLERANCE):
            raise FatalError(f"{case}: {way} and {PLAIN} do not give the same flux.")


def _peak(way: str, settings: Settings, folder: Path, spectra: Sequence[Place]) -> float | None:
    """Megabytes at most of a process of its own that loads the spectra of one message."""
    some = [asdict(each) for each in spectra[: settings.chunk_size]]
    return peak_memory(
        __name__,
        load_once.__name__,
        way=way,
        folder=str(folder),
        spectra=some,
        coadd_mask=settings.coadd_mask,
    )


def load_once(way: str, folder: str, spectra: list[dict[str, str]], coadd_mask: str) -> None:
    """Load spectra; what a process does whose memory is measured."""
    load = load_stage if way == OURS else ways()[way]
    load(Path(folder), [Place(**each) for each in spectra], coadd_mask)

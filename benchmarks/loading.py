r"""The load stage: whole files with all their spectra, beside astropy and astroNN in the same run.

The plain way is what the peers do: for every spectrum the file is opened with astropy, its row
is read and ``astroNN.apogee.apogee_continuum`` normalises it. A kinder plain way opens each file
once. Rounds alternate and medians of the processor's time, all threads counted, are compared,
because a shared machine is noisy. Files come from the page cache: it measures no disk. Before
anything is timed, the ways have to agree within 1e-6.

    OPENBLAS_NUM_THREADS=1 uv run benchmarks/loading.py \
        [--real FOLDER] [--stars 30] [--rounds 7] [--json FILE]

DR13 files are real ones, as many as FOLDER has; DR17 and SDSS-V files are made up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from worker.messages import COADD, SpectrumReference
from worker.spectra.apstar import read_header
from worker.spectra.load import load_spectra

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from astroNN.apogee import apogee_continuum

Floats = NDArray[np.float64]
Load = Callable[[Path, Sequence[SpectrumReference]], NDArray[Any]]


def references(folder: Path) -> list[SpectrumReference]:
    """The coadd and all visits of each file."""
    paths = sorted(folder.rglob("*.fits"))
    return [
        SpectrumReference(job=0, spectrum=n, path=str(path), member=member, file_version="")
        for n, (path, member) in enumerate(
            (path.relative_to(folder), member)
            for path in paths
            for member in (COADD, *read_header(path).visits)
        )
    ]


def planes_of(hdus: fits.HDUList) -> list[NDArray[Any]]:
    """Flux, error and mask as rows; the coadd of DR13 gets the AND of the visits."""
    flux, error, mask = (np.atleast_2d(hdus[number].data) for number in (1, 2, 3))
    if mask.dtype.itemsize == 2 and len(mask) > 2:
        mask = np.concatenate([np.bitwise_and.reduce(mask[2:], axis=0)[None], mask[1:]])
    return [flux, error, mask]


def row_of(hdus: fits.HDUList, member: str, n_rows: int) -> int:
    """Where a member lies."""
    if member == COADD:
        return 0
    header = hdus[0].header
    names = [header[f"SFILE{n + 1}"] for n in range(header["NVISITS"])]
    return names.index(member) + (2 if n_rows > 2 else 0)


def by_astronn(flux: NDArray[Any], error: NDArray[Any], mask: NDArray[Any]) -> Floats:
    """One row as astroNN normalises it; pixels without flux have no weight."""
    missing = ~np.isfinite(flux)
    with np.errstate(all="ignore"):
        ivar = error.astype(np.float64) ** -2
        ivar[~np.isfinite(ivar) | missing] = 0.0
        flux = np.where(missing, 0.0, flux.astype(np.float64))
        normalised = apogee_continuum(flux, ivar**-0.5, bitmask=mask.astype(np.int32), dr=17)[0]
    pixels = np.concatenate([missing[246:3274], missing[3585:6080], missing[6344:8335]])
    return np.where(pixels, 1.0, normalised[0])


def row_by_row(folder: Path, spectra: Sequence[SpectrumReference]) -> NDArray[Any]:
    """The plain way."""
    rows = []
    for spectrum in spectra:
        with fits.open(folder / spectrum.path, memmap=False) as hdus:
            planes = planes_of(hdus)
            row = row_of(hdus, spectrum.member, len(planes[0]))
            rows.append(by_astronn(*(plane[row] for plane in planes)))
    return np.stack(rows).astype(np.float32)


def file_by_file(folder: Path, spectra: Sequence[SpectrumReference]) -> NDArray[Any]:
    """The kinder plain way."""
    rows = []
    for path, members in groupby(spectra, key=lambda spectrum: spectrum.path):
        with fits.open(folder / path, memmap=False) as hdus:
            planes = planes_of(hdus)
            for spectrum in members:
                row = row_of(hdus, spectrum.member, len(planes[0]))
                rows.append(by_astronn(*(plane[row] for plane in planes)))
    return np.stack(rows).astype(np.float32)


def load_stage(folder: Path, spectra: Sequence[SpectrumReference]) -> NDArray[Any]:
    """Ours."""
    loaded = load_spectra(spectra, folder, "and")
    assert not loaded.failures, loaded.failures[0].reason
    return loaded.flux


WAYS: dict[str, Load] = {
    "row by row": row_by_row,
    "file by file": file_by_file,
    "load stage": load_stage,
}


def seconds(load: Load, folder: Path, spectra: Sequence[SpectrumReference]) -> float:
    """The processor's time of one call."""
    started = time.process_time()
    load(folder, spectra)
    return time.process_time() - started


def peak(load: Load, folder: Path, spectra: Sequence[SpectrumReference]) -> float:
    """The most memory in MB that one call holds at a time, its result included."""
    tracemalloc.start()
    try:
        load(folder, spectra)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def measured(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Spectra per second, ratios and peak memory for the files of a folder."""
    spectra = references(folder)
    flux = {way: load(folder, spectra) for way, load in WAYS.items()}
    for other in flux.values():
        np.testing.assert_allclose(other, flux["row by row"], rtol=1e-6, atol=1e-6)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, load in WAYS.items():
            times[way].append(seconds(load, folder, spectra))
    rates = {way: len(spectra) / statistics.median(times[way]) for way in WAYS}
    return {
        "files": name,
        "n_files": len({spectrum.path for spectrum in spectra}),
        "n_spectra": len(spectra),
        "per_second": rates,
        "ratio": {way: rates["load stage"] / rates[way] for way in WAYS},
        "peak_mb": {way: peak(load, folder, spectra) for way, load in WAYS.items()},
    }


def folders(real: Path | None, made_up: Path, stars: int) -> Iterator[tuple[str, Path]]:
    """Names and folders of files; what is made up is written into a temporary folder."""
    if real is not None:
        yield "DR13, real", real.resolve()
    for layout, name in (("dr17", "DR17, made up"), ("sdss5", "SDSS-V, made up")):
        survey = Survey(stars, seed=1, layout=layout)
        folder = made_up / layout
        write_survey(survey, folder, Truth.of(folder, survey.settings()), 1, lambda _: None)
        yield name, folder


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown: spectra per second of one core, ratio, peak memory."""
    lines = [
        "| files | spectra | " + " | ".join(WAYS) + " | ratio to row by row | to file by file | "
        "peak MB, row by row / load stage |",
        "|---|" + "---:|" * (len(WAYS) + 4),
    ]
    for each in results:
        rates = " | ".join(f"{each['per_second'][way]:.0f}" for way in WAYS)
        ratios = " | ".join(f"{each['ratio'][way]:.1f}" for way in list(WAYS)[:2])
        memory = f"{each['peak_mb']['row by row']:.1f} / {each['peak_mb']['load stage']:.1f}"
        lines.append(
            f"| {each['files']} ({each['n_files']}) | {each['n_spectra']} | {rates} | {ratios} | "
            f"{memory} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table and write a JSON file."""
    parser = argparse.ArgumentParser(description="The load stage beside astropy and astroNN")
    parser.add_argument("--real", type=Path, help="folder of real apStar files of DR13")
    parser.add_argument("--stars", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_up:
        results = [
            measured(name, folder, arguments.rounds)
            for name, folder in folders(arguments.real, Path(made_up), arguments.stars)
        ]
    print(f"spectra per second of one core, median of {arguments.rounds} rounds")
    print(table(results))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What carries too little information is refused, and nothing that the survey holds is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import shared
from tests.inputs.apstar_files import WINDOWS, synthetic_planes
from worker.spectra.formats import read_header, read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.spectra.network_input import network_input

N_PIXELS = 8575
RNG = np.random.default_rng(4)


def star(*, shift: int = 0) -> SpectrumArrays:
    planes = synthetic_planes("sdss5", 2, 0)
    flux, error, mask = (np.roll(plane[2], shift) for plane in vars(planes).values())
    return SpectrumArrays(flux, error, mask.astype(np.int32))


def read(spectrum: SpectrumArrays) -> NDArray[np.float32] | str:
    return network_input([spectrum.flux], [spectrum.error], [spectrum.mask])[0]


def taken_away(chip: str, part: float, kind: str) -> NDArray[np.intp]:
    window = WINDOWS[chip]
    size = window.stop - window.start
    pixels = np.arange(size) if kind == "block" else RNG.permutation(size)
    return window.start + pixels[: int(part * size)]


@pytest.mark.parametrize("kind", ["block", "random"])
@pytest.mark.parametrize("chip", WINDOWS)
@pytest.mark.parametrize(
    ("value", "mask", "accepted", "refused", "reason"),
    [
        (0.0, 0, 0.09, 0.11, "zeros in more than 10% of"),
        (0.0, 1, 0.29, 0.31, "no data in more than 30% of"),
        (np.nan, 0, 0.29, 0.31, "no data in more than 30% of"),
        (np.inf, 0, 0.29, 0.31, "no data in more than 30% of"),
    ],
)
def test_chip_of_which_too_much_is_lost_is_refused(
    kind: str, chip: str, value: float, mask: int, accepted: float, refused: float, reason: str
) -> None:
    for part in (accepted, refused, 0.5, 0.9):
        spectrum = star()
        pixels = taken_away(chip, part, kind)
        spectrum.flux[pixels], spectrum.mask[pixels] = value, mask
        found = read(spectrum)
        if part == accepted:
            assert isinstance(found, np.ndarray)
        else:
            assert isinstance(found, str)
            assert f"the {chip} chip" in found
            assert reason in found or part > refused


def test_pixels_that_the_survey_masks_are_not_lost() -> None:
    spectrum = star()
    for chip in WINDOWS:
        spectrum.mask[taken_away(chip, 0.9, "random")] |= 1
    assert isinstance(read(spectrum), np.ndarray)


@pytest.mark.parametrize("shift", [-145, 145])
def test_star_of_600_km_per_second_is_read(shift: int) -> None:
    assert isinstance(read(star(shift=shift)), np.ndarray)


@pytest.mark.parametrize(
    "flux",
    [
        np.ones(N_PIXELS),
        np.full(N_PIXELS, 123.456, np.float32).astype(float),
        np.linspace(200, 100, N_PIXELS),
        100 + np.linspace(-3, 3, N_PIXELS) ** 2,
    ],
    ids=["one", "constant", "slope", "parabola"],
)
def test_smooth_curve_is_refused(flux: NDArray[np.float64]) -> None:
    found = read(SpectrumArrays(flux, flux / 100, np.zeros(N_PIXELS, np.int32)))
    assert found == "neither lines nor noise in the blue and green and red chips"


def test_one_constant_chip_is_refused() -> None:
    spectrum = star()
    spectrum.flux[WINDOWS["green"]] = 7.0
    assert read(spectrum) == "neither lines nor noise in the green chip"


def test_star_without_lines_is_read_by_its_noise() -> None:
    flux = 100 + RNG.normal(size=N_PIXELS) * 0.05  # an S/N of 2000
    found = read(SpectrumArrays(flux, np.full(N_PIXELS, 0.05), np.zeros(N_PIXELS, np.int32)))
    assert isinstance(found, np.ndarray)


@pytest.mark.parametrize("mask", ["and", "or"])
def test_every_real_spectrum_is_read(apstar_folder: Path, mask: str) -> None:
    for path in [*apstar_folder.iterdir(), shared("apStar-dr17-2M17335483-2753043.fits")]:
        members = ["coadd", *read_header(path).visits]
        spectra = read_spectra(path, members, coadd_mask=mask)
        assert all(isinstance(each, SpectrumArrays) for each in spectra)
        assert all(isinstance(read(each), np.ndarray) for each in spectra)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.conftest import shared
from tests.inputs.apstar_files import write_apstar
from tests.unit.worker.spectra.formats.test_apstar_damaged import assert_refused
from worker.spectra.formats.apstar import read_header, read_spectra

GRID = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1}


def with_cards(path: Path, hdu: int, cards: dict[str, Any]) -> Path:
    write_apstar(path)
    with fits.open(path, mode="update") as hdus:
        hdus[hdu].header.update(cards)
    return path


@pytest.mark.parametrize("hdu", range(4))
@pytest.mark.parametrize(
    "cards",
    [
        {},
        GRID,
        {"CRVAL1": 4.17899990081787, "CDELT1": 5.99999998484e-06, "CRPIX1": 1.0},  # as float32
        {"CRVAL1": 4.178994, "CDELT1": 6e-6, "CRPIX1": 0},
        {"CRVAL1": "4.179"},
        {"CRVAL1": None},
    ],
    ids=str,
)
def test_the_grid_of_apstar_files_is_read(tmp_path: Path, hdu: int, cards: dict[str, Any]) -> None:
    path = with_cards(tmp_path / "star.fits", hdu, cards)
    assert len(read_header(path).visits) == 2
    assert len(read_spectra(path, ["coadd"])) == 1


@pytest.mark.parametrize("hdu", range(4))
@pytest.mark.parametrize(
    "cards",
    [
        {**GRID, "CRVAL1": 4.1791},
        {**GRID, "CDELT1": 6.001e-6},
        {**GRID, "CDELT1": -6e-6},
        {**GRID, "CRPIX1": 0},
        {"CRVAL1": 15100.8, "CDELT1": 0.2},
        {"CDELT1": "NaN"},
        {"CDELT1": "unknown"},
    ],
    ids=str,
)
def test_another_grid_is_refused(tmp_path: Path, hdu: int, cards: dict[str, Any]) -> None:
    path = with_cards(tmp_path / "star.fits", hdu, cards)
    assert "another wavelength grid" in assert_refused(path)


def test_a_grid_that_cannot_be_read_is_not_guessed(tmp_path: Path) -> None:
    path = with_cards(tmp_path / "star.fits", 1, GRID)
    content = path.read_bytes()
    at = content.index(b"CDELT1  =")
    path.write_bytes(content[:at] + b"CDELT1  = 1 2".ljust(80) + content[at + 80 :])
    assert "another wavelength grid" in assert_refused(path)


def test_real_files_have_the_grid(apstar_folder: Path) -> None:
    for path in [*apstar_folder.iterdir(), shared("apStar-dr17-2M17335483-2753043.fits")]:
        with fits.open(path) as hdus:
            for hdu in hdus[:4]:
                assert {key: hdu.header[key] for key in GRID} == GRID
        assert read_header(path).visits

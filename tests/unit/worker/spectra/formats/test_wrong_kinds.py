"""What people give by mistake is told what it is, and what to give instead."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.conftest import shared
from tests.inputs.apstar_files import write_apstar
from tests.inputs.summary_files import DR17_STAR, write_table
from tests.unit.worker.spectra.formats.test_apstar_damaged import assert_refused
from worker.spectra.formats.apstar import read_header


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aspcapStar-r12-2M00452143+1634446.fits", "apStar file of the same star"),
        ("allStar-dr17-synspec_rev1.fits", "enqueue --summary"),
        ("allVisit-1.3-apo25m.fits", "enqueue --summary"),
        ("allStarLite-dr17-synspec_rev1.fits", "enqueue --summary"),
        ("apVisit-dr17-5095-55844-128.fits", "resampled to the rest frame"),
        ("asVisit-dr17-5095-55844-128.fits", "resampled to the rest frame"),
        ("apStarC-r5-2M00452143+1634446.fits", "spectra of the commissioning"),
        ("apStar-r6-2M00452143+1634446.fits.fz", "funpack"),
    ],
)
def test_file_is_refused_by_its_name(tmp_path: Path, name: str, reason: str) -> None:
    path = write_apstar(tmp_path / "star.fits").path
    assert reason in assert_refused(path.rename(tmp_path / name))


def test_apvisit_by_another_name_is_refused_for_its_content(tmp_path: Path) -> None:
    real = shared("apVisit-r13-5095-55844-128.fits")
    shutil.copy(real, tmp_path / "star.fits")
    reason = assert_refused(tmp_path / "star.fits")
    assert reason.removeprefix("star.fits") == assert_refused(real).removeprefix(real.name)


def test_summary_table_by_another_name_is_no_apstar_file(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.fits", [DR17_STAR])
    assert "no apStar file" in assert_refused(path)


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((2, 8575)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1189440\n",
            "git lfs pull",
        ),
        (npy(), "worker.infer"),
    ],
    ids=["git-lfs", "numpy"],
)
def test_file_is_refused_by_its_first_bytes(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "apStar-r6-2M00452143+1634446.fits"
    path.write_bytes(content)
    assert reason in assert_refused(path)


def test_images_that_are_packed_are_refused_whatever_else_there_is(tmp_path: Path) -> None:
    path = write_apstar(tmp_path / "star.fits").path
    with fits.open(path) as hdus:
        packed = [
            fits.CompImageHDU(hdu.data, hdu.header, compression_type="RICE_1") for hdu in hdus[1:4]
        ]
        fits.HDUList([hdus[0], *packed, *hdus[4:]]).writeto(tmp_path / "packed.fits")
    assert "funpack" in assert_refused(tmp_path / "packed.fits")


@pytest.mark.parametrize(
    "name",
    ["apStar-dr17-allStar-2M00.fits", "asStar-dr17-2M00.fits", "star.fits", "my-apVisit-1.fits"],
)
def test_other_names_say_nothing(tmp_path: Path, name: str) -> None:
    path = write_apstar(tmp_path / "any.fits").path
    assert read_header(path.rename(tmp_path / name)).visits

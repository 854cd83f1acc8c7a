from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from tests.inputs.apstar_files import ERAS, WINDOWS, Era, Planes, write_apstar
from worker.errors import SpectrumError
from worker.spectra.formats.apstar import read_header, read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.spectra.versions import file_version

IN_WINDOWS = np.concatenate([np.arange(8575)[window] for window in WINDOWS.values()])
#: The rows in which DR12-16 keep these masks.
MASK_ROWS = {"and": 1, "or": 0}


def read(path: Path, *members: str, coadd_mask: str = "and") -> list[SpectrumArrays]:
    rows = read_spectra(path, members, coadd_mask=coadd_mask)
    assert all(isinstance(row, SpectrumArrays) for row in rows), rows
    return [row for row in rows if isinstance(row, SpectrumArrays)]


# Whole files


@pytest.mark.parametrize("n_visits", [1, 2, 3])
@pytest.mark.parametrize("era", ERAS)
def test_every_row_of_every_era_is_read_as_it_was_written(
    tmp_path: Path, era: Era, n_visits: int
) -> None:
    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=n_visits, seed=7)
    members = ("coadd", *written.visits)
    for member, spectrum in zip(members, read(written.path, *members), strict=True):
        row = written.row_of(member)
        np.testing.assert_array_equal(spectrum.flux, written.planes.flux[row])
        np.testing.assert_array_equal(spectrum.error, written.planes.error[row])
        if member != "coadd":
            np.testing.assert_array_equal(spectrum.mask, written.planes.mask[row])


@pytest.mark.parametrize("era", ERAS)
def test_arrays_are_of_one_native_type_in_every_era(tmp_path: Path, era: Era) -> None:
    (spectrum,) = read(write_apstar(tmp_path / "star.fits", era=era).path, "coadd")
    for array, kind in ((spectrum.flux, "f8"), (spectrum.error, "f8"), (spectrum.mask, "i4")):
        assert array.dtype == np.dtype(kind)
        assert array.dtype.isnative
        assert array.shape == (8575,)


def test_members_come_in_the_order_asked_for(tmp_path: Path) -> None:
    written = write_apstar(tmp_path / "star.fits", n_visits=3)
    members = [written.visits[2], "coadd", written.visits[0], written.visits[2]]
    for member, spectrum in zip(members, read(written.path, *members), strict=True):
        np.testing.assert_array_equal(spectrum.flux, written.planes.flux[written.row_of(member)])


@pytest.mark.parametrize("coadd_mask", ["and", "or"])
def test_coadd_of_dr13_gets_the_mask_that_is_asked_for(tmp_path: Path, coadd_mask: str) -> None:
    written = write_apstar(tmp_path / "star.fits", era="dr13", n_visits=3)
    visits = written.planes.mask[2:]
    expected = {"and": visits[0] & visits[1] & visits[2], "or": visits[0] | visits[1] | visits[2]}
    assert (expected["and"] != expected["or"]).any()
    (spectrum,) = read(written.path, "coadd", coadd_mask=coadd_mask)
    np.testing.assert_array_equal(
        spectrum.mask[IN_WINDOWS], expected[coadd_mask][IN_WINDOWS].astype(int)
    )


@pytest.mark.parametrize("coadd_mask", ["and", "or"])
@pytest.mark.parametrize(
    ("era", "n_visits"), [("dr13", 1), ("dr17", 1), ("dr17", 3), ("sdss5", 1), ("sdss5", 3)]
)
def test_coadd_keeps_its_mask_where_the_file_has_only_one(
    tmp_path: Path, era: Era, n_visits: int, coadd_mask: str
) -> None:
    def mark(planes: Planes) -> None:
        planes.mask[0, 500:600] ^= 1 << 13  # so that it differs from the AND of the visits

    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=n_visits, edit=mark)
    (spectrum,) = read(written.path, "coadd", coadd_mask=coadd_mask)
    np.testing.assert_array_equal(spectrum.mask, written.planes.mask[0])


def test_only_visit_of_dr17_may_come_without_the_second_row(tmp_path: Path) -> None:
    def one_row(planes: Planes) -> None:
        planes.flux, planes.error, planes.mask = planes.flux[:1], planes.error[:1], planes.mask[:1]

    written = write_apstar(tmp_path / "star.fits", era="dr17", n_visits=1, edit=one_row)
    for spectrum in read(written.path, "coadd", *written.visits):
        np.testing.assert_array_equal(spectrum.flux, written.planes.flux[0])


@pytest.mark.parametrize("name", ["star.fits.gz", "star.fits"])
@pytest.mark.parametrize("era", ERAS)
def test_gzipped_files_are_read_whatever_their_name(tmp_path: Path, era: Era, name: str) -> None:
    plain = write_apstar(tmp_path / "plain.fits", era=era)
    packed = tmp_path / name
    packed.write_bytes(gzip.compress(plain.path.read_bytes(), 1))
    assert read_header(packed) == read_header(plain.path)
    for one, other in zip(
        read(packed, "coadd", *plain.visits),
        read(plain.path, "coadd", *plain.visits),
        strict=True,
    ):
        np.testing.assert_array_equal(one.flux, other.flux)
        np.testing.assert_array_equal(one.error, other.error)
        np.testing.assert_array_equal(one.mask, other.mask)


# Headers


@pytest.mark.parametrize(
    ("era", "telescope", "field", "healpix"),
    [
        ("dr13", "apo25m", "120-45", None),
        ("dr17", None, "120-45", None),
        ("sdss5", None, None, 12345),
    ],
)
def test_header_of_every_era(
    tmp_path: Path, era: Era, telescope: str | None, field: str | None, healpix: int | None
) -> None:
    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=3, seed=4, snr=90.0)
    header = read_header(written.path)
    assert (header.telescope, header.field, header.healpix) == (telescope, field, healpix)
    assert (header.obj, header.ra, header.dec) == ("2M00000004+0000000", 15.25, -2.5)
    assert (header.snr, header.spectrum_flags) == (90.0, 131076)
    assert header.visits == written.visits
    assert header.visit_snr == (90.0, 45.0, 30.0)
    assert header.visit_flags == (4, 8, 12)


@pytest.mark.parametrize(("era", "snr"), [("dr13", 100.0), ("dr17", 0.0), ("sdss5", None)])
def test_snr_of_an_only_visit_is_what_the_file_says(
    tmp_path: Path, era: Era, snr: float | None
) -> None:
    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=1)
    assert read_header(written.path).visit_snr == (snr,)


@pytest.mark.parametrize("text", ["NaN", "inf", "-Infinity", "", "unknown"])
def test_numbers_that_are_text_or_not_finite_are_none(tmp_path: Path, text: str) -> None:
    cards = dict.fromkeys(("SNR", "RA", "DEC", "HEALPIX", "STARFLAG", "SNRVIS1", "FLAG2"), text)
    header = read_header(write_apstar(tmp_path / "star.fits", era="sdss5", cards=cards).path)
    assert header.snr is header.ra is header.dec is header.healpix is header.spectrum_flags is None
    assert header.visit_snr == (None, 50.0)
    assert header.visit_flags == (4, None)


@pytest.mark.parametrize("n_visits", [1, 3])
@pytest.mark.parametrize("era", ERAS)
def test_without_nvisits_the_rows_tell_the_number_of_visits(
    tmp_path: Path, era: Era, n_visits: int
) -> None:
    written = write_apstar(tmp_path / "star.fits", era=era, n_visits=n_visits, without=["NVISITS"])
    assert read_header(written.path).visits == written.visits
    (last,) = read(written.path, written.visits[-1])
    np.testing.assert_array_equal(last.flux, written.planes.flux[-1 if n_visits > 1 else 0])


def test_visit_without_a_name_is_called_by_its_number(tmp_path: Path) -> None:
    written = write_apstar(tmp_path / "star.fits", n_visits=3, without=["SFILE2"])
    assert read_header(written.path).visits == (written.visits[0], "visit-2", written.visits[2])
    (second,) = read(written.path, "visit-2")
    np.testing.assert_array_equal(second.flux, written.planes.flux[3])


def test_visit_named_like_an_earlier_one_is_called_by_its_number(tmp_path: Path) -> None:
    name = "apVisit-r6-1-56001-001.fits"
    written = write_apstar(tmp_path / "star.fits", cards={"SFILE1": name, "SFILE2": name})
    assert read_header(written.path).visits == (name, "visit-2")
    for row, spectrum in enumerate(read(written.path, name, "visit-2"), start=2):
        np.testing.assert_array_equal(spectrum.flux, written.planes.flux[row])


def test_missing_and_undefined_cards_are_none(tmp_path: Path) -> None:
    path = write_apstar(
        tmp_path / "star.fits", without=["OBJID", "SNR", "FLAG1"], cards={"FIELD": None}
    ).path
    header = read_header(path)
    missing = header.obj, header.snr, header.field, header.visit_flags[0]
    assert missing == (None,) * 4
    assert header.telescope == "apo25m"


def test_missing_visit_is_an_error_of_its_own(tmp_path: Path) -> None:
    written = write_apstar(tmp_path / "star.fits")
    coadd, missing, visit = read_spectra(
        written.path, ["coadd", "apVisit-r6-1-2-3.fits", written.visits[1]]
    )
    assert isinstance(coadd, SpectrumArrays)
    assert isinstance(visit, SpectrumArrays)
    assert isinstance(missing, SpectrumError)
    assert "apVisit-r6-1-2-3.fits" in str(missing)
    assert "star.fits" in str(missing)


def test_visit_that_is_listed_but_has_no_row_is_an_error_of_its_own(tmp_path: Path) -> None:
    written = write_apstar(
        tmp_path / "star.fits", n_visits=2, cards={"NVISITS": 3, "SFILE3": "apVisit-x.fits"}
    )
    coadd, missing = read_spectra(written.path, ["coadd", "apVisit-x.fits"])
    assert isinstance(coadd, SpectrumArrays)
    assert isinstance(missing, SpectrumError)
    assert "apVisit-x.fits" in str(missing)
    assert "star.fits" in str(missing)


def test_file_version_changes_with_content_and_time(tmp_path: Path) -> None:
    path = tmp_path / "star.fits"
    assert file_version(path) == "absent"
    path.write_bytes(b"abc")
    os.utime(path, ns=(10**18, 10**18))
    first = file_version(path)
    assert file_version(path) == first
    os.utime(path, ns=(10**18, 10**18 + 1000))
    second = file_version(path)
    path.write_bytes(b"abcd")
    os.utime(path, ns=(10**18, 10**18))
    assert len({first, second, file_version(path), "absent"}) == 4


# Real files


@pytest.mark.parametrize("coadd_mask", ["and", "or"])
def test_real_files_give_10_coadds_and_34_visits(apstar_folder: Path, coadd_mask: str) -> None:
    n_coadds = n_visits = 0
    for path in sorted(apstar_folder.iterdir()):
        visits = read_header(path).visits
        coadd, *rows = read(path, "coadd", *visits, coadd_mask=coadd_mask)
        with fits.open(path, memmap=False) as hdus:
            flux, error, mask = (np.atleast_2d(hdus[n].data) for n in (1, 2, 3))
            names = [hdus[0].header[f"SFILE{n + 1}"] for n in range(len(visits))]
        assert list(visits) == names
        first_row = 2 if len(visits) > 1 else 0
        for row, visit in enumerate(rows, start=first_row):
            np.testing.assert_array_equal(visit.flux, flux[row])
            np.testing.assert_array_equal(visit.error, error[row])
            np.testing.assert_array_equal(visit.mask, mask[row])
        np.testing.assert_array_equal(coadd.flux, flux[0])
        np.testing.assert_array_equal(coadd.error, error[0])
        kept: NDArray[np.int32] = mask[MASK_ROWS[coadd_mask] if len(visits) > 1 else 0]
        has_data = IN_WINDOWS[error[0][IN_WINDOWS] < 1e10]
        no_data = IN_WINDOWS[error[0][IN_WINDOWS] >= 1e10]
        np.testing.assert_array_equal(coadd.mask[has_data], kept[has_data])
        # There the pipeline's own row 1 may be 0, although no visit has data.
        assert (coadd.mask[no_data] & 1).all()
        n_coadds, n_visits = n_coadds + 1, n_visits + len(rows)
    assert (n_coadds, n_visits) == (10, 34)

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.sources.files import CatalogueEntry, Wanted, find_files, spectra_of
from tests.conftest import shared
from tests.inputs.apstar_files import Era, apstar_name, object_name, write_apstar
from worker.database.tables import Kind
from worker.errors import UsageError
from worker.spectra import formats
from worker.spectra.formats.apstar import APSTAR
from worker.spectra.load import load_spectra
from worker.spectra.versions import file_version


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path, *names: str) -> list[str]:
    """What is found in these files and folders, relative to the data root."""
    paths = [root / name for name in names] or [root]
    return [str(path.relative_to(root.resolve())) for path in find_files(paths, root)]


# Files


def test_folder_gives_all_fits_files_below_it_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.fits", "a/z.fits.gz", "a/b/c/deep.fits", "c/apVisit-x.fits")
    touch(tmp_path, "notes.txt", "a/allStar.csv", "b.fits.log", "fits", "d/x.fits.tmp")
    assert found(tmp_path) == ["a/b/c/deep.fits", "a/z.fits.gz", "b.fits", "c/apVisit-x.fits"]


@pytest.mark.parametrize(
    "name",
    [
        ".star.fits",
        ".star.fits.Xy12Ab",
        ".star.fits.gz",
        "star.fits.part",
        ".hidden/star.fits",
        "plots/star.fits",
        "html/star.fits",
        "a/plots/b/star.fits",
        "star_doppler.pkl",
    ],
)
def test_hidden_temporary_and_foreign_names_are_left_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "good.fits")
    assert found(tmp_path) == ["good.fits"]


def test_a_file_that_is_named_is_taken_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "star.dat", "plots/star.fits", "other.fits")
    assert found(tmp_path, "star.dat", "plots/star.fits") == ["plots/star.fits", "star.dat"]


def test_file_given_several_times_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/one.fits", "a/two.fits")
    assert found(tmp_path, "a/one.fits", "a", ".", "a/../a/two.fits") == [
        "a/one.fits",
        "a/two.fits",
    ]


def test_link_and_its_target_are_one_file(tmp_path: Path) -> None:
    # The reduction writes a versioned file and an unversioned link to it.
    touch(tmp_path, "apStar-1.3-x-60049.fits")
    (tmp_path / "apStar-1.3-x.fits").symlink_to("apStar-1.3-x-60049.fits")
    assert found(tmp_path) == ["apStar-1.3-x-60049.fits"]
    assert found(tmp_path, "apStar-1.3-x.fits") == ["apStar-1.3-x-60049.fits"]


def test_links_to_folders_are_not_followed_into_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "a/star.fits")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert found(tmp_path) == ["a/star.fits"]


def test_link_to_itself_does_not_hide_the_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "good.fits")
    (tmp_path / "loop.fits").symlink_to(tmp_path / "loop.fits")
    assert "good.fits" in found(tmp_path)


def test_link_whose_target_is_gone_for_a_moment_is_listed(tmp_path: Path) -> None:
    (tmp_path / "star.fits").symlink_to("star-60049.fits")
    assert found(tmp_path) == ["star-60049.fits"]


def test_folder_called_like_a_file_is_listed_and_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "x.fits/inner.fits", "y.fits.gz/inner.fits", "good.fits", ".z.fits/inner.fits")
    assert found(tmp_path) == ["good.fits", "x.fits", "y.fits.gz"]


def test_data_root_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real/star.fits")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert found(tmp_path / "root") == ["star.fits"]


@pytest.mark.parametrize("name", ["absent.fits", "absent", "good.fits/x.fits"])
def test_missing_path_is_an_error_of_usage(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "good.fits")
    with pytest.raises(UsageError, match=rf"{name} does not exist"):
        find_files([tmp_path / "good.fits", tmp_path / name], tmp_path)


def test_path_outside_the_data_root_is_an_error_of_usage(tmp_path: Path) -> None:
    touch(tmp_path, "root/good.fits", "root2/star.fits")
    for path in (tmp_path / "root2", tmp_path / "root2" / "star.fits"):
        with pytest.raises(UsageError, match="outside the data root"):
            find_files([path], tmp_path / "root")


def test_link_that_leads_out_of_the_data_root_is_listed_but_not_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.fits"
    touch(tmp_path, "root/good.fits")
    write_apstar(outside, n_visits=2)
    (root / "link.fits").symlink_to(outside)
    assert find_files([root], root) == [root / "good.fits", root / "link.fits"]
    (entry,) = spectra_of(root / "link.fits", root, "both")
    assert (entry.kind, entry.path, entry.obj) == ("coadd", "link.fits", None)


def test_linked_folder_is_looked_into_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/star.fits")
    (tmp_path / "root").mkdir()
    for name in ("a", "b"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    assert find_files([tmp_path / "root"], tmp_path) == [tmp_path / "elsewhere" / "star.fits"]


@pytest.mark.parametrize("without", [(), ("OBJID",)])
def test_name_that_is_not_utf8_has_its_spectra_and_they_load(
    tmp_path: Path, without: tuple[str, ...]
) -> None:
    file = tmp_path / os.fsdecode(b"apStar-r6-\xe9.fits")
    write_apstar(file, n_visits=2, without=without)
    entries = spectra_of(file, tmp_path, "both")
    assert [entry.path for entry in entries] == ["apStar-r6-\\udce9.fits"] * 3
    assert {entry.obj for entry in entries} == {"\\udce9" if without else object_name(0)}
    assert "".join(str(vars(entry)) for entry in entries).encode()
    assert len(load_spectra(entries, tmp_path).flux) == 3


def test_file_that_is_called_like_an_escaped_name_is_another(tmp_path: Path) -> None:
    names = os.fsdecode(b"\xe9.fits"), "\\udce9.fits"
    for seed, name in enumerate(names):
        write_apstar(tmp_path / name, seed=seed)
    entries = [spectra_of(tmp_path / name, tmp_path, "coadd")[0] for name in names]
    assert [entry.obj for entry in entries] == [object_name(0), object_name(1)]
    flux = load_spectra(entries, tmp_path).flux
    for name, row in zip(names, flux, strict=True):
        (alone,) = load_spectra(spectra_of(tmp_path / name, tmp_path, "coadd"), tmp_path).flux
        assert np.array_equal(row, alone)
    assert not np.array_equal(*flux)


def test_folder_without_a_spectrum_is_an_error_of_usage(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "plots/star.fits")
    with pytest.raises(UsageError, match=r"no \.fits"):
        find_files([tmp_path], tmp_path)


# Spectra of a file


def written(
    root: Path, folder: str, era: Era, n_visits: int = 2, telescope: str = "apo25m"
) -> tuple[Path, tuple[str, ...]]:
    """A file under the name that the era gives it, and its visits."""
    path = root / folder / apstar_name(era, object_name(5), telescope)
    made = write_apstar(path, era=era, n_visits=n_visits, seed=5, telescope=telescope)
    return path, made.visits


@pytest.mark.parametrize(
    ("era", "folder", "telescope", "expected"),
    [
        (
            "dr13",
            "stars/4476",
            "apo25m",
            {"apred": "r6", "release": "dr13", "field": "120-45", "healpix": None},
        ),
        (
            "dr17",
            "stars/apo25m/120-45",
            "apo25m",
            {"apred": "dr17", "release": "dr17", "field": "120-45", "healpix": None},
        ),
        (
            "dr17",
            "stars/lco25m/120-45",
            "lco25m",
            {"apred": "dr17", "release": "dr17", "field": "120-45", "healpix": None},
        ),
        (
            "sdss5",
            "1.3/stars/lco25m/12/12345",
            "lco25m",
            {"apred": "1.3", "release": None, "field": None, "healpix": 12345},
        ),
    ],
)
def test_entries_of_every_era(
    tmp_path: Path, era: Era, folder: str, telescope: str, expected: dict[str, Any]
) -> None:
    file, visits = written(tmp_path, folder, era, telescope=telescope)
    path = f"{folder}/{file.name}"
    star: dict[str, Any] = {
        "path": path,
        "file_version": file_version(file),
        "telescope": telescope,
        "obj": "2M00000005+0000000",
        "starver": None,
        "ra": 16.25,
        "dec": -2.5,
        **expected,
    }
    stem = file.name.removesuffix(".fits")
    coadd = CatalogueEntry(
        kind=Kind.COADD,
        member="coadd",
        natural_key=f"{stem}/coadd",
        n_visits=2,
        snr=100.0,
        spectrum_flags=131076,
        **star,
    )
    of_visits = [
        CatalogueEntry(
            kind=Kind.VISIT,
            member=visits[n - 1],
            natural_key=f"{stem}/{visits[n - 1].removesuffix('.fits')}",
            n_visits=None,
            snr=100.0 / n,
            spectrum_flags=4 * n,
            plate="6005",
            mjd=56000 + n,
            fiber=10 + n,
            **star,
        )
        for n in (1, 2)
    ]
    assert spectra_of(file, tmp_path, "coadd") == [coadd]
    assert spectra_of(file, tmp_path, "visit") == of_visits
    assert spectra_of(file, tmp_path, "both") == [coadd, *of_visits]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("apStar-r12-2M00452143+1634446.fits", ("r12", "dr16", None, "2M00452143+1634446", None)),
        ("apStar-r6-2M03290406-3117075.fits", ("r6", "dr13", None, "2M03290406-3117075", None)),
        ("asStar-dr17-2M03290406-3117075.fits", ("dr17", "dr17", None, "2M03290406-3117075", None)),
        ("apStar-r8-AP00452143-1634446.fits.gz", ("r8", "dr14", None, "AP00452143-1634446", None)),
        ("apStar-r5-VESTA.fits", ("r5", "dr12", None, "VESTA", None)),
        (
            "apStar-1.3-apo25m-2M00452143-1634446-60049.fits",
            ("1.3", None, "apo25m", "2M00452143-1634446", "60049"),
        ),
        (
            "apStar-daily-lco25m-2M00452143+1634446.fits",
            ("daily", None, "lco25m", "2M00452143+1634446", None),
        ),
        (
            "apStar-1.3-apo1m-2M00452143+1634446-59999.fits",
            ("1.3", None, "apo1m", "2M00452143+1634446", "59999"),
        ),
        ("apStar-1m-r12-VESTA.fits", ("r12", "dr16", None, "VESTA", None)),
        ("star.fits", (None, None, None, None, None)),
        ("apStar.fits", (None, None, None, None, None)),
    ],
)
def test_names_of_files_are_parsed_even_when_the_files_are_not(
    tmp_path: Path, name: str, expected: tuple[str | None, ...]
) -> None:
    touch(tmp_path, name)
    (entry,) = spectra_of(tmp_path / name, tmp_path, "both")
    parsed = entry.apred, entry.release, entry.telescope, entry.obj, entry.starver
    assert parsed == expected


@pytest.mark.parametrize(
    ("visit", "expected"),
    [
        ("apVisit-r6-6561-56587-131.fits", ("6561", 56587, 131)),
        ("asVisit-dr17-12767-58888-001.fits", ("12767", 58888, 1)),
        ("apVisit-1.3-apo25m-15012-59601-042.fits", ("15012", 59601, 42)),
        ("apVisit-daily-lco25m-5339-60049-300.fits", ("5339", 60049, 300)),
        ("apVisit-r12-57001-2M00452143+1634446.fits", (None, 57001, None)),
        ("apVisit-r12-57001-2M00452143-1634446.fits", (None, 57001, None)),
        ("apVisit-r12-57001.5-VESTA.fits", (None, 57001, None)),
        ("something else", (None, None, None)),
    ],
)
def test_names_of_visits_of_every_era_are_parsed(
    tmp_path: Path, visit: str, expected: tuple[str | None, int | None, int | None]
) -> None:
    file = write_apstar(tmp_path / "star.fits", n_visits=1, cards={"SFILE1": visit}).path
    (entry,) = spectra_of(file, tmp_path, "visit")
    assert entry.member == visit
    assert (entry.plate, entry.mjd, entry.fiber) == expected


def test_header_is_believed_more_than_the_name(tmp_path: Path) -> None:
    file = tmp_path / "lco25m" / "apStar-r6-2M1+1.fits"
    write_apstar(file, telescope="apo1m", seed=8)
    (entry,) = spectra_of(file, tmp_path, "coadd")
    assert (entry.telescope, entry.obj) == ("apo1m", "2M00000008+0000000")


def test_name_stands_in_for_a_header_without_cards(tmp_path: Path) -> None:
    file = tmp_path / "lco25m" / "apStar-r6-2M1+1.fits"
    write_apstar(file, without=["OBJID", "TELESCOP", "NVISITS", "SFILE2"])
    coadd, _, visit = spectra_of(file, tmp_path, "both")
    assert (coadd.telescope, coadd.obj, coadd.n_visits) == ("lco25m", "2M1+1", 2)
    assert (visit.member, visit.natural_key) == ("visit-2", "apStar-r6-2M1+1/visit-2")


def test_numbers_that_are_not_finite_do_not_reach_the_catalogue(tmp_path: Path) -> None:
    cards = dict.fromkeys(("SNR", "RA", "DEC", "SNRVIS1"), "NaN")
    file = write_apstar(tmp_path / "star.fits", era="sdss5", cards=cards).path
    coadd, visit, _ = spectra_of(file, tmp_path, "both")
    assert coadd.ra is coadd.dec is coadd.snr is visit.snr is None


@pytest.mark.parametrize("wanted", ["coadd", "visit", "both"])
def test_file_that_cannot_be_read_is_one_coadd(tmp_path: Path, wanted: Wanted) -> None:
    good, _ = written(tmp_path, "good", "dr13")
    for name, content in (("empty", b""), ("cut", good.read_bytes()[:-2880]), ("text", b"text")):
        file = tmp_path / name / good.name
        touch(tmp_path, f"{name}/{good.name}")
        file.write_bytes(content)
        (entry,) = spectra_of(file, tmp_path, wanted)
        assert entry == CatalogueEntry(
            kind=Kind.COADD,
            path=f"{name}/{good.name}",
            member="coadd",
            natural_key="apStar-r6-2M00000005+0000000/coadd",
            file_version=file_version(file),
            release="dr13",
            apred="r6",
            obj="2M00000005+0000000",
        )


def test_folder_and_absent_file_are_one_coadd_each(tmp_path: Path) -> None:
    (tmp_path / "x.fits").mkdir()
    for name in ("x.fits", "absent.fits"):
        (entry,) = spectra_of(tmp_path / name, tmp_path, "visit")
        assert (entry.kind, entry.path, entry.member) == (Kind.COADD, name, "coadd")


def test_gzipped_file_has_the_keys_of_the_plain_one(tmp_path: Path) -> None:
    plain, _ = written(tmp_path, "plain", "sdss5")
    packed = tmp_path / "packed" / f"{plain.name}.gz"
    write_apstar(packed, era="sdss5", seed=5)
    entries = [spectra_of(file, tmp_path, "both") for file in (plain, packed)]
    for one, other in zip(*entries, strict=True):
        differing = {
            field.name
            for field in fields(CatalogueEntry)
            if getattr(one, field.name) != getattr(other, field.name)
        }
        assert differing == {"path", "file_version"}


def test_real_files_give_10_coadds_and_34_visits(apstar_folder: Path) -> None:
    files = find_files([apstar_folder], shared())
    entries = [entry for file in files for entry in spectra_of(file, shared(), "both")]
    assert [entry.kind for entry in entries].count(Kind.COADD) == 10
    assert [entry.kind for entry in entries].count(Kind.VISIT) == 34
    assert len({entry.natural_key for entry in entries}) == 44
    assert {(entry.release, entry.telescope) for entry in entries} == {("dr13", "apo25m")}
    one = next(entry for entry in entries if entry.member == "apVisit-r6-6561-56607-125.fits")
    assert (one.plate, one.mjd, one.fiber, one.snr) == ("6561", 56607, 125, 39.798)
    assert one.natural_key == "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56607-125"


@pytest.mark.parametrize("error", [RecursionError("deep"), OverflowError("wide"), MemoryError()])
def test_whatever_reading_a_file_raises_leaves_its_coadd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    file = write_apstar(tmp_path / "star.fits", n_visits=2).path

    def surprise(_: Path) -> None:
        raise error

    monkeypatch.setattr(formats, "FORMATS", (replace(APSTAR, read_header=surprise),))
    (entry,) = spectra_of(file, tmp_path, "both")
    assert (entry.kind, entry.path) == ("coadd", "star.fits")


def test_size_beyond_64_bits_leaves_the_coadd(tmp_path: Path) -> None:
    file = tmp_path / "star.fits"
    file.write_bytes(shared("field/fits_naxis_overflow.fits").read_bytes())
    (entry,) = spectra_of(file, tmp_path, "both")
    assert (entry.kind, entry.path) == ("coadd", "star.fits")


def test_card_that_cannot_be_read_is_said_and_costs_only_its_value(tmp_path: Path) -> None:
    file = write_apstar(tmp_path / "star.fits", n_visits=2).path
    sound = spectra_of(file, tmp_path, "both")
    content = file.read_bytes()
    start = content.index(b"SNR     =")
    file.write_bytes(content[:start] + b"SNR     = 1 2".ljust(80) + content[start + 80 :])
    coadd, *visits = spectra_of(file, tmp_path, "both")
    now: dict[str, Any] = {"file_version": file_version(file), "unread_cards": "SNR"}
    assert coadd == replace(sound[0], snr=None, **now)
    assert visits == [replace(each, **now) for each in sound[1:]]

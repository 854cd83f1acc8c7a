from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from producer.sources.survey_tree import StarFiles, pixel_of
from worker.errors import UsageError

OBJ = "2M05595894+2204122"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def files(root: Path, apred: str, below: str = "") -> StarFiles:
    (root / below / apred / "stars").mkdir(parents=True)
    return StarFiles(root, apred)


# Paths


def by_sdss_access(release: str, name: str, **keywords: object) -> Path:
    """A path of the survey's own package, below the archive; in a process of its own, because it
    changes the environment and how warnings are shown."""
    program = (
        "import json, sys, warnings; warnings.simplefilter('ignore');"
        "from sdss_access.path import Path; release, name, keywords = json.loads(sys.argv[1]);"
        "print(Path(release=release).full(name, **keywords))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([release, name, keywords])],
        env={"SAS_BASE_DIR": "/sas", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip()).relative_to("/sas")


@pytest.mark.parametrize(("telescope", "prefix"), [("apo25m", "ap"), ("lco25m", "as")])
def test_dr17_files_lie_where_sdss_access_says(tmp_path: Path, telescope: str, prefix: str) -> None:
    tree = files(tmp_path, "dr17", "dr17/apogee/spectro/redux")
    keywords = {"apred": "dr17", "apstar": "stars", "field": "120+12", "obj": OBJ}
    expected = by_sdss_access("dr17", "apStar", telescope=telescope, prefix=prefix, **keywords)
    assert tree.dr17(OBJ, telescope, "120+12", None) == tmp_path / expected


@pytest.mark.parametrize(
    ("release", "below"),
    [
        ("dr19", "dr19/spectro/apogee/redux"),
        ("ipl-3", "ipl-3/spectro/apogee/redux"),
        ("sdsswork", "sdsswork/mwm/apogee/spectro/redux"),
    ],
)
def test_sdss5_files_lie_where_sdss_access_says(tmp_path: Path, release: str, below: str) -> None:
    tree = files(tmp_path, "1.3", below)
    keywords = {"apred": "1.3", "apstar": "stars", "obj": OBJ, "healpix": pixel_of(OBJ)}
    expected = by_sdss_access(release, "apStar", telescope="lco25m", **keywords)
    assert tree.sdss5(OBJ, "lco25m") == tmp_path / expected


def test_tree_is_found_from_each_folder_that_people_mirror(tmp_path: Path) -> None:
    redux = tmp_path / "dr17" / "apogee" / "spectro" / "redux"
    star = redux / "dr17" / "stars" / "apo25m" / "M67" / f"apStar-dr17-{OBJ}.fits"
    touch(star)
    for root in (tmp_path, tmp_path / "dr17", redux):
        assert StarFiles(root, "dr17").dr17(OBJ, "apo25m", "M67", None) == star


def test_folder_without_the_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.3" / "stars").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"no 1\.4/stars in .*--root"):
        StarFiles(tmp_path, "1.4")


def test_name_of_a_file_that_the_table_tells_is_taken(tmp_path: Path) -> None:
    path = files(tmp_path, "dr17").dr17("VESTA", "apo1m", "standards", "apStar-dr17-Vesta2.fits")
    assert path == tmp_path / "dr17/stars/apo1m/standards/apStar-dr17-Vesta2.fits"


# Versions of a star in SDSS-V


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixel = pixel_of(OBJ)
    assert pixel is not None
    return tmp_path / "1.3" / "stars" / "apo25m" / f"{pixel // 1000}" / f"{pixel}"


def test_newest_version_is_taken_whatever_the_table_says(tmp_path: Path, folder: Path) -> None:
    newest = folder / f"apStar-1.3-apo25m-{OBJ}-60049.fits"
    touch(newest, folder / f"apStar-1.3-apo25m-{OBJ}-59560.fits")
    touch(folder / "apStar-1.3-apo25m-2M05595894+2204123-60100.fits")  # another star
    touch(folder / "plots" / f"apStar-1.3-apo25m-{OBJ}-60200.fits")
    touch(folder / f"apStar-1.3-apo25m-{OBJ}-60300_out_doppler.pkl")
    tree = StarFiles(tmp_path, "1.3")
    stale = f"apogee/spectro/redux/1.3/stars/apo25m/60/60800/apStar-1.3-apo25m-{OBJ}-59560.fits"
    assert tree.sdss5(OBJ, "apo25m", uri=stale) == newest
    assert tree.sdss5(OBJ, "apo25m") == newest


def test_link_without_version_is_taken_where_it_is_all_there_is(
    tmp_path: Path, folder: Path
) -> None:
    plain = folder / f"apStar-1.3-apo25m-{OBJ}.fits"
    touch(plain)
    assert StarFiles(tmp_path, "1.3").sdss5(OBJ, "apo25m") == plain


def test_uri_tells_the_folder_where_it_is_not_that_of_the_name(tmp_path: Path) -> None:
    star = tmp_path / "1.3/stars/apo25m/60/60801" / f"apStar-1.3-apo25m-{OBJ}-59560.fits"
    touch(star)
    tree = StarFiles(tmp_path, "1.3")
    uri = f"apogee/spectro/redux/1.3/stars/apo25m/60/60801/{star.name}"
    assert tree.sdss5(OBJ, "apo25m", uri=uri) == star
    assert tree.sdss5(OBJ, "apo25m", healpix=60801) == star


def test_pixel_of_the_name_goes_before_that_of_the_table(tmp_path: Path, folder: Path) -> None:
    star = folder / f"apStar-1.3-apo25m-{OBJ}-59560.fits"
    touch(star)
    assert StarFiles(tmp_path, "1.3").sdss5(OBJ, "apo25m", healpix=7) == star


def test_file_that_is_not_there_is_where_the_table_says(tmp_path: Path, folder: Path) -> None:
    tree = files(tmp_path, "1.3")
    uri = f"any/1.3/stars/apo25m/60/60801/apStar-1.3-apo25m-{OBJ}-59560.fits"
    assert tree.sdss5(OBJ, "apo25m", uri=uri) == tmp_path / uri.removeprefix("any/")
    assert tree.sdss5(OBJ, "apo25m") == folder / f"apStar-1.3-apo25m-{OBJ}.fits"


def test_stars_of_the_one_metre_telescope_lie_in_their_field(tmp_path: Path) -> None:
    star = tmp_path / "1.3/stars/apo1m/standards/apStar-1.3-apo1m-VESTA-59560.fits"
    touch(star)
    assert StarFiles(tmp_path, "1.3").sdss5("VESTA", "apo1m", field="standards") == star


@pytest.mark.parametrize("obj", ["VESTA", "", "2M0559", "2M05595894 2204122", "2M0559589x+2204122"])
def test_names_without_a_position_have_no_pixel(obj: str) -> None:
    assert pixel_of(obj) is None


def test_pixel_of_a_southern_name() -> None:
    # As healpy has it.
    assert pixel_of("2M06154934-0100415") == 100229

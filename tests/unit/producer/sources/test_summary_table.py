from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import producer.sources.summary_table
from producer.simulation.observation import Layout
from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from producer.sources.files import CatalogueEntry, Wanted, find_files, spectra_of
from producer.sources.fits_rows import FitsTable
from producer.sources.summary_table import SummaryTable
from tests.inputs.apstar_files import write_apstar
from tests.inputs.summary_files import DR17_STAR, DR17_VISIT, SDSS5_STAR, SDSS5_VISIT, write_table
from worker.database.tables import Kind
from worker.errors import SpectrumError, UsageError
from worker.spectra.formats.apstar import read_header
from worker.spectra.load import resolve_inside
from worker.spectra.versions import ABSENT

Rows = list[dict[str, Any]]


def entries(
    root: Path, rows: Rows, wanted: Wanted | None = None, **formats: str
) -> list[CatalogueEntry]:
    """What a table of these rows names, the data root being the folder that holds the versions."""
    table = SummaryTable(write_table(root / "table.fits", rows, **formats), root, root)
    table.check(wanted)
    counted: list[int] = []
    found = list(table.entries(wanted, counted.append))
    assert sum(counted) == len(rows) == len(table)
    return found


@pytest.fixture
def dr17(tmp_path: Path) -> Path:
    touch(tmp_path / f"dr17/stars/apo25m/120+12/{DR17_STAR['FILE']}")
    return tmp_path


@pytest.fixture
def sdss5(tmp_path: Path) -> Path:
    touch(tmp_path / "1.3/stars/apo25m/60/60800" / str(SDSS5_STAR["file"]))
    return tmp_path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


# Against the files themselves


@pytest.mark.parametrize(
    ("layout", "star", "visit"),
    [("dr17", DR17_STAR, DR17_VISIT), ("sdss5", SDSS5_STAR, SDSS5_VISIT)],
)
def test_tables_name_the_spectra_that_the_files_hold(
    tmp_path: Path, layout: Layout, star: dict[str, Any], visit: dict[str, Any]
) -> None:
    survey = Survey(stars=4, visits=3, seed=8, layout=layout)
    write_survey(survey, tmp_path, Truth.of(tmp_path, survey.settings()), 1, lambda _: None)
    files = find_files([tmp_path], tmp_path)
    expected = [entry for file in files for entry in spectra_of(file, tmp_path, "both")]
    stars = [row_of(star, entry) for entry in expected if entry.kind is Kind.COADD]
    visits = [row_of(visit, entry) for entry in expected if entry.kind is Kind.VISIT]
    visits.sort(key=lambda row: row.get("MJD", row.get("mjd")))
    found = entries(tmp_path, stars, snr="D", SNR="D")
    assert by_place(found) == by_place(e for e in expected if e.kind is Kind.COADD)
    found = entries(tmp_path, visits, snr="D", SNR="D")
    assert by_place(found) == by_place(e for e in expected if e.kind is Kind.VISIT)
    runs = [path for path, _ in groupby(found, key=lambda entry: entry.path)]
    assert len(runs) == len(set(runs)), "the visits of a file stand together"
    assert by_place(entries(tmp_path, stars, "both")) == by_place(expected)


def row_of(template: dict[str, Any], entry: CatalogueEntry) -> dict[str, Any]:
    """The row of a table for a spectrum whose file was read."""
    is_star = entry.kind is Kind.COADD
    values = {
        **asdict(entry),
        "file": Path(entry.path).name if is_star else entry.member,
        "uri": f"apogee/spectro/redux/{entry.path}",
        "apogee_id": entry.obj,
        "nvisits": entry.n_visits,
        "starflag": entry.spectrum_flags,
        "fiberid": entry.fiber,
    }
    return {name: values.get(name.lower(), old) for name, old in template.items()}


def by_place(entries: Iterable[CatalogueEntry]) -> dict[tuple[str, str], CatalogueEntry]:
    return {(entry.path, entry.member): entry for entry in entries}


# Stars


def test_file_that_a_row_does_not_name_is_named_after_the_star(dr17: Path) -> None:
    masked = {**DR17_STAR, "FILE": None}
    south = {**masked, "TELESCOPE": "lco25m"}
    first, second, third = entries(dr17, [DR17_STAR, masked, south])
    assert first == second
    assert first.file_version != ABSENT
    assert third.path == "dr17/stars/lco25m/120+12/asStar-dr17-2M00000002+7417074.fits"
    assert third.file_version == ABSENT


def test_version_is_that_of_the_first_row_that_names_a_file(dr17: Path) -> None:
    rows = [{**DR17_STAR, "FILE": None}] * 3 + [{**DR17_STAR, "FILE": "?"}, DR17_STAR]
    assert [entry.apred for entry in entries(dr17, rows)] == ["dr17"] * 3 + [None, "dr17"]


def test_padded_texts_name_the_same_spectrum(dr17: Path) -> None:
    padded = {**DR17_STAR, "FIELD": "120+12    ", "TELESCOPE": "apo25m ", "APOGEE_ID": "2M0000 "}
    entry, again = entries(dr17, [DR17_STAR, padded])
    assert (again.field, again.telescope, again.obj) == ("120+12", "apo25m", "2M0000")
    assert again.path == entry.path


def test_stars_without_a_good_velocity_have_no_file_and_are_left_out(sdss5: Path) -> None:
    assert len(entries(sdss5, [SDSS5_STAR, {**SDSS5_STAR, "ngoodrvs": 0, "file": None}])) == 1


def test_row_that_is_older_than_the_files_gives_the_newest(sdss5: Path) -> None:
    newest = str(SDSS5_STAR["file"]).replace("59560", "60049")
    touch(sdss5 / "1.3/stars/apo25m/60/60800" / newest)
    (entry,) = entries(sdss5, [SDSS5_STAR])
    assert (Path(entry.path).name, entry.starver) == (newest, "60049")
    (visit,) = entries(sdss5, [SDSS5_VISIT])
    assert (visit.path, visit.member) == (entry.path, SDSS5_VISIT["file"])


def test_what_a_row_says_of_an_older_file_is_not_said_of_the_newest(sdss5: Path) -> None:
    newest = str(SDSS5_STAR["file"]).replace("59560", "60049")
    write_apstar(sdss5 / "1.3/stars/apo25m/60/60800" / newest, era="sdss5", n_visits=3, snr=150.0)
    (entry,) = entries(sdss5, [SDSS5_STAR])
    assert (entry.kind, entry.n_visits, entry.snr) == (Kind.COADD, 3, 150.0)


def test_link_is_the_file_behind_it(sdss5: Path) -> None:
    folder = sdss5 / "1.3/stars/apo25m/60/60800"
    target = str(SDSS5_STAR["file"])
    (folder / target.replace("59560", "60049")).symlink_to(target)
    (entry,) = entries(sdss5, [SDSS5_STAR])
    assert Path(entry.path).name == target


def test_visits_of_stars_come_from_the_headers_of_their_files(tmp_path: Path) -> None:
    survey = Survey(stars=1, visits=2, seed=8, layout="dr17")
    write_survey(survey, tmp_path, Truth.of(tmp_path, survey.settings()), 1, lambda _: None)
    (file,) = find_files([tmp_path], tmp_path)
    (star,) = spectra_of(file, tmp_path, "coadd")
    here, gone = row_of(DR17_STAR, star), DR17_STAR
    visits = entries(tmp_path, [here, gone], "visit")
    assert [entry.member for entry in visits] == [*read_header(file).visits, "coadd"]
    assert visits[-1].file_version == ABSENT, "a file that is not there stands for one spectrum"


# Visits


def test_visits_are_members_of_their_stars_file(dr17: Path) -> None:
    unnamed = {**DR17_VISIT, "FILE": None, "FIBERID": 7}
    one, two = entries(dr17, [DR17_VISIT, unnamed])
    assert one.path == two.path == f"dr17/stars/apo25m/120+12/{DR17_STAR['FILE']}"
    assert one.member == DR17_VISIT["FILE"]
    assert two.member == "apVisit-dr17-8100-57680-007.fits"
    assert (one.plate, one.mjd, one.fiber, one.snr) == ("8100", 57680, 24, 120.5)
    assert one.n_visits is None


def test_uri_of_a_visit_is_not_its_stars(sdss5: Path) -> None:
    touch(sdss5 / str(SDSS5_VISIT["uri"]).removeprefix("apogee/spectro/redux/"))
    here, gone = entries(sdss5, [SDSS5_VISIT, {**SDSS5_VISIT, "apogee_id": "2M05595894+2204123"}])
    assert here.path == f"1.3/stars/apo25m/60/60800/{SDSS5_STAR['file']}"
    assert gone.path == "1.3/stars/apo25m/60/60800/apStar-1.3-apo25m-2M05595894+2204123.fits"


def test_visits_of_all_fields_stand_together_in_sdss5(sdss5: Path) -> None:
    one, other = SDSS5_VISIT, {**SDSS5_VISIT, "apogee_id": "2M05595894+2204123"}
    found = entries(sdss5, [one, other, {**other, "field": "a"}, {**one, "field": "z"}])
    assert len([path for path, _ in groupby(found, key=lambda entry: entry.path)]) == 2


def test_visits_are_held_a_share_of_the_stars_at_a_time(
    dr17: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {**DR17_VISIT, "APOGEE_ID": f"2M0000{star:04d}+7417074", "FILE": f"apVisit-dr17-{n}.fits"}
        for n, star in enumerate([*range(300)] * 4)
    ]
    table = SummaryTable(write_table(dr17 / "table.fits", rows), dr17, dr17)
    held: list[int] = []  # rows of each pass over the table
    blocks = FitsTable.blocks

    def new_pass(self: FitsTable, names: list[str]) -> Iterator[Any]:
        held.append(0)
        return blocks(self, names)

    def count(finished: int) -> None:
        held[-1] += finished

    monkeypatch.setattr(producer.sources.summary_table, "_ROWS_HELD", 100)
    monkeypatch.setattr(FitsTable, "blocks", new_pass)
    found = list(table.entries(None, count))
    assert len(held) == 12
    assert max(held) < 200, "stars are spread evenly over the passes"
    assert sorted(entry.member for entry in found) == sorted(row["FILE"] for row in rows)
    runs = [path for path, _ in groupby(found, key=lambda entry: entry.path)]
    assert len(runs) == len(set(runs)) == 300


def test_coadds_of_a_table_of_visits_are_refused(dr17: Path) -> None:
    for wanted in ("coadd", "both"):
        with pytest.raises(UsageError, match=r"lists visits alone; for coadds give allStar"):
            entries(dr17, [DR17_VISIT], wanted)


# Tables that cannot be used


@pytest.mark.parametrize("missing", ["FILE", "APOGEE_ID", "TELESCOPE", "NVISITS"])
def test_table_without_the_columns_is_refused(dr17: Path, missing: str) -> None:
    row = {name: value for name, value in DR17_STAR.items() if name != missing}
    with pytest.raises(UsageError, match=r"neither an allStar nor an allVisit table"):
        entries(dr17, [row])


def test_column_of_another_kind_is_none(dr17: Path) -> None:
    (entry,) = entries(dr17, [{**DR17_STAR, "SNR": "high"}], SNR="4A")
    assert entry.snr is None
    with pytest.raises(UsageError, match="neither"):
        entries(dr17, [{**DR17_STAR, "FILE": 5}], FILE="J")


def test_table_that_names_no_file_is_refused(dr17: Path) -> None:
    with pytest.raises(UsageError, match="names no apStar or apVisit file"):
        entries(dr17, [{**DR17_STAR, "FILE": None}])


def test_root_outside_the_data_root_is_refused(tmp_path: Path, dr17: Path) -> None:
    path = write_table(tmp_path / "table.fits", [DR17_STAR])
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="lies outside the data root"):
        SummaryTable(path, dr17, tmp_path / "other")


@pytest.mark.parametrize("field", ["../../../../../etc", "/etc", "a/../../..", "x" * 300, "\x01"])
def test_field_cannot_lead_out_of_the_data_root(tmp_path: Path, field: str) -> None:
    root = tmp_path / "data"
    touch(root / f"dr17/stars/apo25m/120+12/{DR17_STAR['FILE']}")

    def read() -> None:
        (entry,) = entries(root, [{**DR17_STAR, "FIELD": field}], FIELD="400A")
        read_header(resolve_inside(root.resolve(), entry.path))

    with pytest.raises((UsageError, SpectrumError)) as refusal:
        read()
    assert re.search("outside the data root|does not exist|cannot be read", str(refusal.value))


def test_numbers_that_no_database_holds_are_none(dr17: Path) -> None:
    (entry,) = entries(dr17, [{**DR17_STAR, "STARFLAG": 2**40, "SNR": float("inf")}])
    assert (entry.spectrum_flags, entry.snr) == (None, None)

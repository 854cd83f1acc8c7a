"""What `enqueue` and `from producer import enqueue` open jobs for, on both databases."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from producer import enqueue
from producer.ledger.requeue import Selection, requeue
from producer.sources.names import read_names
from tests.inputs.apstar_files import write_apstar
from tests.inputs.summary_files import DR17_STAR, DR17_VISIT, write_table
from worker.database.session import opened, transaction
from worker.database.tables import Job, JobState, Spectrum
from worker.errors import UsageError
from worker.identity import Place
from worker.settings import Settings, get_settings
from worker.spectra.load import load_spectra
from worker.spectra.versions import ABSENT

OBJ = "2M00452143+1634446"
STAR = f"apStar-r6-{OBJ}.fits"


@pytest.fixture
def settings(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database_url: str,
) -> Settings:
    """Those of the environment; the data root holds one file, of a star with three visits."""
    root = tmp_path / "data"
    root.mkdir()
    write_apstar(root / STAR, n_visits=3, cards={"OBJID": OBJ})
    for name, value in {
        "DATABASE_URL": database_url,
        "DATA_ROOT": root,
    }.items():
        monkeypatch.setenv(f"ASTRONN_STREAM_{name}", str(value))
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with opened(settings.database_url) as engine:
        yield engine


def catalogue(engine: Engine) -> list[dict[str, Any]]:
    """The spectra that have jobs, with those."""
    statement = select(
        Spectrum.__table__, Job.lane, Job.tag, Job.state, Job.file_version.label("version")
    )
    statement = statement.join(Job, Job.spectrum_pk == Spectrum.pk).order_by(Job.pk)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def set_done(engine: Engine) -> None:
    with transaction(engine) as session:
        for job in session.scalars(select(Job)):
            job.state = JobState.DONE


# Files and names


def test_files_are_enqueued_as_live_once(settings: Settings, engine: Engine) -> None:
    path = settings.data_root / STAR
    done = enqueue([path])
    assert (done.spectra, done.files, done.waiting, done.missing) == (4, 1, 4, 0)
    assert {row["lane"] for row in catalogue(engine)} == {"live"}
    set_done(engine)
    again = enqueue([path], tag="")
    assert (again.spectra, again.waiting, again.under_way, again.done) == (4, 0, 0, 4)
    assert enqueue([path], kind="coadd", tag="other", lane="bulk").waiting == 1
    assert [row["tag"] for row in catalogue(engine)] == [""] * 4 + ["other"]


def test_nothing_is_enqueued_where_nothing_is_given(engine: Engine) -> None:
    assert enqueue().spectra == enqueue([]).spectra == 0
    assert catalogue(engine) == []


def test_names_stand_for_what_the_table_of_results_calls_so(
    settings: Settings, engine: Engine
) -> None:
    enqueue([settings.data_root])
    known = catalogue(engine)
    visit = known[2]
    for n, (name, count) in enumerate(
        [
            (visit["pk"], 1),
            (str(visit["pk"]), 1),
            (visit["natural_key"], 1),
            (visit["path"], 4),
            (OBJ, 4),
            (str(settings.data_root), 4),
        ]
    ):
        assert enqueue([name], tag=f"{n}").spectra == count, name
    rows = {row["pk"]: row for row in catalogue(engine) if row["tag"] == "1"}
    assert [*rows] == [visit["pk"]]
    assert enqueue([OBJ], kind="visit", tag="visits").spectra == 3
    assert enqueue([OBJ, visit["natural_key"], visit["pk"]], tag="once").spectra == 4
    again = {row["pk"]: row for row in catalogue(engine)}
    moments = {"modified", "lane", "tag", "state", "version"}
    for row in known:  # what the catalogue says of them has not changed
        assert {**again[row["pk"]], **{name: row[name] for name in moments}} == row


def test_several_names_are_looked_up_in_parts(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue([settings.data_root])
    keys = [row["natural_key"] for row in catalogue(engine)]
    monkeypatch.setattr("producer.sources.names._AT_ONCE", 2)
    assert enqueue(keys, tag="keys").spectra == 4


def test_names_that_are_unknown_are_told(settings: Settings, engine: Engine) -> None:
    odd = ["0", "9" * 30, "a\0b", "\udc80", "x" * 5000]
    for name in ["2M0", "x/coadd", "none.fits", "99", 99, *odd]:
        with pytest.raises(UsageError, match=r"no file, and no spectrum_pk, natural_key, path or"):
            enqueue([name])
    with pytest.raises(UsageError, match=r"'a' is no file, .*; nor are 2 other names\.$"):
        enqueue([settings.data_root, "c", "b", "a"])
    assert catalogue(engine) == []


def test_file_that_is_given_but_not_there_is_told(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"none\.fits does not exist"):
        enqueue([settings.data_root / "none.fits"])


def test_names_come_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(f" {OBJ}\n\n17 \nmy folder/star.fits\n")
    assert read_names(tmp_path / "ids") == [OBJ, "17", "my folder/star.fits"]
    (tmp_path / "ids").write_text("\n")
    with pytest.raises(UsageError, match="names nothing"):
        read_names(tmp_path / "ids")


# Files that are not there


def test_results_of_a_file_that_has_gone_stay(settings: Settings, engine: Engine) -> None:
    enqueue([settings.data_root])
    set_done(engine)
    (settings.data_root / STAR).unlink()
    again = enqueue([OBJ])
    assert (again.done, again.waiting) == (4, 0)
    assert (again.missing, again.first_missing) == (1, (STAR,))
    assert ABSENT not in {row["version"] for row in catalogue(engine)}
    assert enqueue([OBJ], tag="new").waiting == 4, "they end as rows that say so"
    assert enqueue([OBJ], tag="newer", missing="skip").spectra == 0


def test_what_is_known_of_a_file_that_has_gone_stays(settings: Settings, engine: Engine) -> None:
    enqueue([settings.data_root])
    known = catalogue(engine)
    (settings.data_root / "star.fits").symlink_to(STAR)  # a reduction's link, left behind
    (settings.data_root / STAR).unlink()
    assert enqueue([settings.data_root]).missing == 1
    assert catalogue(engine) == known


@pytest.fixture
def allstar(settings: Settings, tmp_path: Path) -> Path:
    """Two stars, of which one has a file."""
    folder = settings.data_root / "dr17/stars/apo25m/120+12"
    folder.mkdir(parents=True)
    (settings.data_root / STAR).rename(folder / str(DR17_STAR["FILE"]))
    other = {**DR17_STAR, "FILE": None, "APOGEE_ID": "2M00000003+7417075"}
    return write_table(tmp_path / "allStar.fits", [other, DR17_STAR, DR17_STAR])


def test_stars_of_a_table_whose_files_are_missing_have_jobs(engine: Engine, allstar: Path) -> None:
    done = enqueue(summary=allstar, lane="bulk")
    assert (done.spectra, done.waiting, done.missing) == (2, 2, 1)
    name = "dr17/stars/apo25m/120+12/apStar-dr17-2M00000003+7417075.fits"
    assert done.first_missing == (name,)
    here, gone = catalogue(engine)  # in the order of their files
    assert (gone["path"], gone["file_version"]) == (name, ABSENT)
    assert (here["snr"], here["n_visits"], here["obj"]) == (
        pytest.approx(229.78),
        3,
        DR17_STAR["APOGEE_ID"],
    )
    assert here["lane"] == "bulk"


def test_file_that_comes_later_opens_its_job_again(
    settings: Settings, engine: Engine, allstar: Path
) -> None:
    left_out = enqueue(summary=allstar, missing="skip")
    assert (left_out.spectra, left_out.files, left_out.missing) == (1, 1, 1)
    enqueue(summary=allstar)
    set_done(engine)
    folder = settings.data_root / "dr17/stars/apo25m/120+12"
    shutil.copy(folder / str(DR17_STAR["FILE"]), folder / "apStar-dr17-2M00000003+7417075.fits")
    again = enqueue(summary=allstar)
    assert (again.waiting, again.done, again.missing) == (1, 1, 0)


def test_table_that_cannot_be_used_opens_nothing(
    settings: Settings, engine: Engine, allstar: Path, tmp_path: Path
) -> None:
    visits = write_table(tmp_path / "allVisit.fits", [DR17_VISIT])
    with pytest.raises(UsageError, match="for coadds give allStar"):
        enqueue([settings.data_root], summary=visits, kind="coadd")
    with pytest.raises(UsageError, match="no dr17/stars in"):
        enqueue(summary=allstar, root=tmp_path / "data" / "dr17")
    assert catalogue(engine) == []
    assert enqueue(summary=visits, root=settings.data_root).spectra == 1


def test_many_rows_are_registered_a_part_at_a_time(
    settings: Settings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.data_root / "dr17" / "stars").mkdir(parents=True)
    monkeypatch.setattr("producer.ledger.register._AT_ONCE", 10)
    rows = [{**DR17_STAR, "FILE": f"apStar-dr17-star{n}.fits"} for n in range(95)]
    done = enqueue(summary=write_table(tmp_path / "many.fits", rows + rows[:5]))
    assert (done.waiting, done.missing, len(done.first_missing)) == (100, 100, 3)
    assert len(catalogue(engine)) == 95


# From the other side


def test_importing_the_producer_is_light() -> None:
    program = (
        "import sys, producer; heavy = {'torch', 'celery', 'sqlalchemy', 'astropy', 'numpy'};"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules};"
        "from producer import Enqueued, enqueue;"
        "assert not {'torch', 'celery', 'matplotlib', 'numba'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_producer_has_no_other_attributes() -> None:
    import producer

    with pytest.raises(AttributeError, match="dequeue"):
        producer.dequeue  # noqa: B018


def test_example_of_the_documentation_works(
    settings: Settings, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "producers.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    star = settings.data_root / STAR
    exec(example, {"new_files": [star]})  # noqa: S102 - it is our own
    assert capsys.readouterr().out == "4 spectra wait for the stack, 0 had results\n"
    assert {row["tag"] for row in catalogue(engine)} == {"night-60049"}


def test_what_was_enqueued_by_name_is_requeued_by_number(
    settings: Settings, engine: Engine
) -> None:
    enqueue([settings.data_root])
    set_done(engine)
    assert requeue(engine, Selection(spectra=[catalogue(engine)[0]["pk"]])) == 1
    assert enqueue([OBJ]).waiting == 1


def test_file_whose_name_is_no_utf8_is_enqueued_as_any(settings: Settings, engine: Engine) -> None:
    path = settings.data_root / os.fsdecode(b"apStar-dr17-2M\xff\xfe.fits")
    write_apstar(path, n_visits=2, without=["OBJID"])
    assert enqueue([path]).waiting == 3
    rows = catalogue(engine)
    escaped = r"apStar-dr17-2M\udcff\udcfe.fits"
    assert {row["path"] for row in rows} == {escaped}
    places = [Place(row["path"], row["member"]) for row in rows]
    assert len(load_spectra(places, settings.data_root).flux) == 3
    assert enqueue([escaped]).missing == 0  # its name in the table of results finds it

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from producer.commands.main import command_line
from producer.commands.screen import console
from tests.inputs.apstar_files import visit_name, write_apstar
from worker.errors import FatalError, UsageError
from worker.pictures import gallery
from worker.pictures.gallery import GALLERY
from worker.results.read import RowSelection, read_table
from worker.settings import PREFIX, get_settings
from worker.tables.export import write_results, write_survey, write_table


@pytest.fixture
def database(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", str(engine.url))
    monkeypatch.setenv(f"{PREFIX}DATA_ROOT", str(tmp_path))
    get_settings.cache_clear()
    return engine


@pytest.fixture
def flags_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickest of the pictures, where it does not matter which."""
    monkeypatch.setattr(gallery, "GALLERY", {"flags": GALLERY["flags"]})


def plot(*arguments: object) -> str:
    app = command_line(["plot"])
    with console.capture() as printed:
        CliRunner().invoke(app, ["plot", *map(str, arguments)], catch_exceptions=False)
    return printed.get()


def written(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.usefixtures("database")
def test_pictures_of_the_database_in_both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ["flags", "kiel"]
    monkeypatch.setattr(gallery, "GALLERY", {name: GALLERY[name] for name in [*drawn, "repeats"]})
    text = plot("--out", "new/pictures", "--format", "both", "--dark")
    assert written("new/pictures") == [
        f"{name}.{kind}" for name in drawn for kind in ("pdf", "png")
    ]
    assert "new/pictures/kiel.pdf: Kiel diagram, coloured by [Fe/H]\n" in text
    assert "repeats: not drawn. No star has two unflagged visits" in text


@pytest.mark.usefixtures("flags_alone")
@pytest.mark.parametrize("ending", ["fits", "parquet", "csv", "ecsv", "vot"])
def test_a_table_gives_the_pictures_of_the_database(database: Engine, ending: str) -> None:
    write_results(database, RowSelection(), Path(f"labels.{ending}"))
    plot("--out", "ours")
    plot("--out", "theirs", "--table", f"labels.{ending}")
    assert Path("ours/flags.png").read_bytes() == Path("theirs/flags.png").read_bytes()


@pytest.mark.usefixtures("flags_alone")
def test_a_table_in_the_surveys_layout_is_that_of_its_results(database: Engine) -> None:
    coadds, _ = write_survey(database, RowSelection(), Path())
    plot("--out", "ours", "--where", "kind == 'coadd'")
    plot("--out", "theirs", "--table", coadds.path)
    assert Path("ours/flags.png").read_bytes() == Path("theirs/flags.png").read_bytes()


@pytest.mark.usefixtures("database", "flags_alone")
def test_conditions_and_tags_choose_rows() -> None:
    plot("--out", "all")
    plot("--out", "some", "--where", "snr > 101.5")
    plot("--out", "tagged", "--tag", "second")
    flags = {Path(folder, "flags.png").read_bytes() for folder in ("all", "some", "tagged")}
    assert len(flags) == 3


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--where", "snr > 1e6"], "There are no such results; there is nothing to draw."),
        (["--where", "snrr > 1"], "the results have no column snrr"),
        (["--table", "t.fits", "--tag", "x"], "choose rows of the database"),
        (["--table", "t.fits"], "The results table t.fits does not exist."),
        (["--spectrum", "t.fits:coadd"], "no such file, and it is no spectrum_pk"),
        (["--spectrum", "77"], "no spectrum with spectrum_pk 77"),
        (["--spectrum", "1", "--where", "snr > 1"], "--spectrum is one"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(arguments: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        plot("--out", "pictures", *arguments)
    assert not Path("pictures").exists()


def test_a_spectrum_by_file_member_and_key(database: Engine) -> None:
    Path("r6").mkdir()
    path = write_apstar(Path("r6/apStar-r6-2M00452143+1634446.fits")).path
    with pytest.raises(FatalError, match=r"does not hold the visit apVisit-r6-6561-56587-2\.fits"):
        plot("--out", "pages", "--spectrum", 2)
    visit = visit_name("dr13", 1)
    for which in (1, path, f"{path}:{visit}"):
        plot("--out", "pages", "--spectrum", which)
    of_visit, of_coadd = written("pages")
    assert of_visit == f"{path.stem}-{visit.removesuffix('.fits')}.png"
    assert of_coadd == f"{path.stem}-coadd.png"
    write_table(read_table(database), Path("labels.parquet"))
    plot("--out", "table", "--spectrum", path, "--table", "labels.parquet")
    plot("--out", "key", "--spectrum", 1, "--table", "labels.parquet")
    pages = [Path(folder, of_coadd).read_bytes() for folder in ("pages", "table", "key")]
    assert pages[0] == pages[1] == pages[2]


def test_a_table_without_what_the_page_tells_is_refused(database: Engine) -> None:
    table = read_table(database)
    table.remove_column("snr")
    table.write("labels.csv")
    with pytest.raises(UsageError, match=r"The results table labels\.csv has no snr;"):
        plot("--out", "pages", "--spectrum", 1, "--table", "labels.csv")


def test_a_spectrum_needs_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_apstar(Path("apStar-r6-x.fits"))
    plot("--out", "pages", "--spectrum", "apStar-r6-x.fits")
    assert written("pages") == ["apStar-r6-x-coadd.png"]
    assert written(".") == ["apStar-r6-x.fits", "pages"]


@pytest.mark.usefixtures("database")
def test_a_folder_that_cannot_be_written_is_a_clear_end() -> None:
    Path("taken").write_text("mine")
    with pytest.raises(UsageError, match=r"taken cannot be made or written: .*taken is no folder"):
        plot("--out", "taken")

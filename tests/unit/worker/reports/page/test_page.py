from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from sqlalchemy import Engine
from typer.testing import CliRunner

from producer.commands.main import command_line
from worker.errors import UsageError
from worker.flags import ResultFlag
from worker.pictures import gallery
from worker.pictures.gallery import GALLERY
from worker.reports.page import rows
from worker.reports.page.html import text
from worker.reports.page.page import check_report, page
from worker.reports.page.rows import listed
from worker.settings import PREFIX, get_settings

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)> \x1b[2J & \"quoted\""


@pytest.fixture(autouse=True)
def _one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "GALLERY", {"flags": GALLERY["flags"]})


def made(table: Table) -> str:
    return page(table, [("Condition", HOSTILE)], lambda _: None)


def cells(content: str, key: str) -> list[list[str]]:
    """The cells of a table's rows, as HTML."""
    (inside,) = re.findall(rf'id="{key}".*?<tbody>(.*?)</tbody>', content, re.DOTALL)
    return [re.findall(r"<td.*?>(.*?)</td>", row) for row in inside.split("</tr>")[:-1]]


def test_the_page_tells_results_failures_and_what_made_them(table: Table) -> None:
    content = made(table)
    results = cells(content, "result-table")
    assert [row[0] for row in results] == ["5", "1", "2", "3"]  # in order of the table
    of_three = dict(
        zip(
            [head.name for head in rows.result_headings(rows.known_labels(table))],
            results[3],
            strict=True,
        )
    )
    assert of_three["teff (K)"] == "3000 ± 3022"
    assert of_three["ni_h (dex)"] == "3021.000 ± 3043.000"
    assert of_three["flags"] == "uncertain_logg, uncertain_teff, uncertain_fe_h"
    assert of_three["S/N"] == "103.2"
    assert re.findall(r'data-flagged="(\w+)"', content) == ["yes", "no", "yes", "yes"]
    assert re.findall(r'data-good="(\w+)"', content) == ["no"] * 4
    (failed,) = cells(content, "failed-table")
    assert failed[0] == "4"
    assert failed[4].startswith("No flux in Ångström’s chip – “blue”, and a comma.")
    assert [row[0] for row in cells(content, "provenance-table")] == ["2", "1", "1", "1"]
    assert "<dt>Without labels</dt><dd>1</dd>" in content
    assert "All spectra that have labels." in content


def test_the_table_begins_with_certain_rows_that_are_like_the_training(table: Table) -> None:
    certain = table["spectrum_pk"] != 2
    table["e_fe_h"][certain & ~np.asarray(table["flag_no_result"])] = 0.05
    table["result_flags"][table["spectrum_pk"] == 3] |= ResultFlag.UNLIKE_TRAINING.value
    content = made(table)
    keys = [row[0] for row in cells(content, "result-table")]
    assert dict(zip(keys, re.findall(r'data-good="(\w+)"', content), strict=True)) == {
        **{"5": "yes", "1": "yes", "2": "no", "3": "no"}
    }
    assert 'data-choice="e_fe_h &lt; 0.1 and not flag_unlike_training"' in content
    assert "<dt>e_fe_h &lt; 0.1 and not flag_unlike_training</dt><dd>2</dd>" in content


def test_what_others_wrote_stays_text(table: Table) -> None:
    for name in ("obj", "no_result_reason", "path", "member", "tag", "weights_name"):
        table[name] = np.where(table["flag_no_result"] | (name != "no_result_reason"), HOSTILE, "")
    content = made(table)
    assert content.count("<script") == 1  # the page's own
    assert "<img src=x" not in content
    assert "\x1b" not in content
    assert content.count("&lt;script&gt;document.title=&#x27;owned&#x27;&lt;/script&gt;") > 10


def test_the_page_asks_the_network_for_nothing(table: Table) -> None:
    content = made(table)
    assert "http:" not in content
    assert "https:" not in content
    sources = re.findall(r'(?:src|srcset|href)="([^"]{0,30})', content)
    assert {source[0] == "#" or source.startswith("data:image/png;") for source in sources} == {
        True
    }
    light, dark = re.findall(r'data:image/png;base64,([^"]*)"', content)
    assert light != dark
    assert "default-src 'none'" in content


def test_a_page_of_a_big_run_has_a_bounded_size(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "GALLERY", {})
    big = table[np.tile(np.arange(len(table)), 6000)]
    big["obj"] = np.full(len(big), HOSTILE * 5)
    content = made(big)
    assert len(cells(content, "result-table")) == 2000
    assert len(cells(content, "failed-table")) == 1000
    assert "2,000 of 24,000 spectra that have labels, flagged ones first" in content
    assert "The first 1,000 of 6,000 spectra that could not be processed" in content
    assert len(content) < 8_000_000


@pytest.mark.parametrize(
    ("n_flagged", "n_others", "expected"),
    [(3, 4, (3, 4)), (12, 3, (7, 3)), (3, 20, (3, 7)), (20, 20, (5, 5)), (20, 0, (10, 0))],
)
def test_flagged_rows_are_listed_first_but_not_alone(
    n_flagged: int, n_others: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_ROWS", 10)
    monkeypatch.setattr(rows, "MOST_FLAGGED", 5)
    warned = np.repeat([True, False, True], [1, n_others, n_flagged])
    failed = np.arange(len(warned)) == 0
    chosen = listed(Table({"flag_no_result": failed, "flag_warn": warned}))
    assert (np.diff(chosen) > 0).all()
    assert (warned[chosen].sum(), (~warned[chosen]).sum()) == expected
    assert 0 not in chosen


def test_results_without_any_label_have_a_page(table: Table) -> None:
    content = made(table[table["flag_no_result"]])
    assert "<p>No spectrum has labels.</p>" in content
    assert cells(content, "result-table") == []
    assert len(cells(content, "failed-table")) == 1


def test_results_without_any_failure_say_so(table: Table) -> None:
    content = made(table[~table["flag_no_result"]])
    assert "Every spectrum has labels." in content
    assert "failed-table" not in content


def test_long_texts_are_cut() -> None:
    assert text("a " * 5000) == "a " * 100 + "…"
    assert text(ResultFlag.NO_RESULT.value) == "2048"


@pytest.mark.parametrize("name", ["report.htm", "nowhere/report.html"])
def test_a_place_where_no_page_can_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.html|cannot be written"):
        check_report(tmp_path / name)


@pytest.fixture
def report(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", str(engine.url))
    get_settings.cache_clear()
    app = command_line(["report"])

    def run(*arguments: str) -> str:
        CliRunner().invoke(app, ["report", "--out", "r.html", *arguments], catch_exceptions=False)
        return Path("r.html").read_text("utf-8")

    return run


def test_the_command_reports_what_is_in_the_database(report: Callable[..., str]) -> None:
    content = report("--where", "snr < 103", "--tag", "first")
    assert [row[0] for row in cells(content, "result-table")] == ["1", "2"]
    assert "<dt>Condition</dt><dd>snr &lt; 103</dd>" in content
    assert "<dt>Tag</dt><dd>first</dd>" in content
    assert {path.name for path in Path().iterdir() if "sqlite" not in path.name} == {"r.html"}


def test_without_results_there_is_no_report(report: Callable[..., str]) -> None:
    with pytest.raises(UsageError, match="nothing to report"):
        report("--tag", "none")
    assert not Path("r.html").exists()

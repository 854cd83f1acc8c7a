"""The report of a run, in a browser without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table

from tests.acceptance.chromium import dom, look
from tests.acceptance.command import Workplace
from tests.inputs.apstar_files import write_apstar

#: A file that cannot be read; its name, and with it the reason, is hostile.
HOSTILE = "apStar-<script>document.title='owned'<&>.fits"
STARS = 20
#: Hears of errors, and of what the page's policy forbids, from the beginning on.
LISTENING = """
const told = { errors: [] };
const hear = (event) => told.errors.push(event.message || event.violatedDirective || "error");
addEventListener("error", hear, true);
document.addEventListener("securitypolicyviolation", hear);
const table = (key) => document.querySelector(`#${key} table`);
const column = (key, n) => [...table(key).tBodies[0].rows].map((row) => row.cells[n].textContent);
const head = (key, n) => table(key).tHead.rows[0].cells[n];
const choose = (value) => {
  const menu = document.querySelector("#results select");
  menu.value = value;
  menu.dispatchEvent(new Event("change"));
};
const status = () => document.querySelector("#results [role=status]").textContent;
addEventListener("load", () => {
  %s
  told.title = document.title;
  document.documentElement.dataset.told = JSON.stringify(told);
});
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, demonstration_weights: Path) -> Workplace:  # noqa: ARG001
    """A run of 60 good spectra and a file that is none."""
    place = Workplace(tmp_path_factory.mktemp("report") / "work")
    folder = place.folder / "stars"
    folder.mkdir()
    for seed in range(STARS):
        write_apstar(folder / f"apStar-r6-2M{seed:08d}+0000000.fits", seed=seed)
    (folder / HOSTILE).write_text("no spectrum")
    options = ("--serial", "--model", "demonstration", "--report", "report.html")
    output = place.run("run", folder, *options)
    (place.folder / "output.txt").write_text(output)
    return place


def driven(place: Workplace, actions: str) -> dict[str, Any]:
    """What a script, which the policy of a copy of the page lets in, saw and did."""
    page = (place.folder / "report.html").read_text("utf-8")
    script = LISTENING % actions
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.count("script-src '") == 1
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '")
    copy = place.folder / "driven.html"
    copy.write_text(page.replace("<title>", f"<script>{script}</script><title>", 1), "utf-8")
    (told,) = re.findall(r'data-told="([^"]*)"', dom(copy.as_uri()))
    content: dict[str, Any] = json.loads(html.unescape(told))
    return content


def test_the_run_tells_of_its_report_and_leaves_nothing_else(place: Workplace) -> None:
    assert "report.html: open it in a browser" in (place.folder / "output.txt").read_text()
    assert place.files() >= {"labels.fits", "report.html", "astronn-stream.sqlite"}
    assert not [name for name in place.files() if name.startswith(".")]


def test_the_page_opens_without_errors_and_shows_its_pictures(
    place: Workplace, tmp_path: Path
) -> None:
    told = driven(
        place,
        "told.pictures = [...document.images].map((image) => image.naturalWidth);"
        "told.first = status(); choose('');"
        "told.rows = column('result-table', 0).length; told.status = status();"
        "told.wide = document.documentElement.scrollWidth <= innerWidth;",
    )
    assert told["errors"] == []
    assert len(told["pictures"]) >= 5
    assert min(told["pictures"]) > 300
    labels = Table.read(place.folder / "labels.fits")
    good = (labels["e_fe_h"] < 0.1) & ~labels["flag_unlike_training"]
    assert 0 < good.sum() < 50
    assert told["first"] == f"1–{good.sum()} of {good.sum()} rows"
    assert told["rows"] == 50
    assert told["status"] == "1–50 of 60 rows"
    assert told["wide"]  # tables scroll, not the page
    look((place.folder / "report.html").as_uri(), tmp_path / "report.png", width=500)


def test_text_of_files_is_inert(place: Workplace) -> None:
    told = driven(place, "told.reason = column('failed-table', 4);")
    assert told["errors"] == []
    assert told["title"] == "Stellar labels of APOGEE spectra"
    (reason,) = told["reason"]
    assert HOSTILE in reason


def test_tables_sort_filter_and_turn_pages(place: Workplace) -> None:
    told = driven(
        place,
        """
        const number = (text) => parseFloat(text.replace('−', '-'));
        const c_h = () => column('result-table', 6).map(number);
        const click = (n) => head('result-table', n).querySelector('button').click();
        const [before, after] = document.querySelectorAll('#results .tools button');
        choose('');
        click(6); told.rising = c_h(); told.sorted = head('result-table', 6).ariaSort;
        after.click(); told.second = c_h(); told.page = status(); told.last = after.disabled;
        click(6); told.falling = c_h();
        click(0); told.keys = column('result-table', 0).map(Number);
        const filter = document.querySelector('#results input');
        filter.value = '00000007 visit';
        filter.dispatchEvent(new Event('input'));
        told.stars = column('result-table', 1); told.found = status();
        filter.value = 'nothing like it';
        filter.dispatchEvent(new Event('input'));
        told.none = status();
        """,
    )
    assert told["errors"] == []
    rising = told["rising"] + told["second"]
    assert len(rising) == 60
    assert rising == sorted(rising)
    assert min(rising) < 0
    assert told["keys"] == sorted(told["keys"])
    assert told["falling"] == sorted(rising, reverse=True)[:50]
    assert told["sorted"] == "ascending"
    assert told["page"] == "51–60 of 60 rows"
    assert told["last"] is True
    assert len(told["stars"]) == 2
    assert all("00000007" in star for star in told["stars"])
    assert told["found"] == "1–2 of 2 rows"
    assert told["none"] == "no rows"

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inputs.repeat_database import fill
from tests.inputs.repeat_surveys import SCALES, offsets, survey
from worker.database.session import opened
from worker.results.where import condition
from worker.settings import get_settings

pytestmark = pytest.mark.filterwarnings("ignore:Using the starter weights")

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the page's Python finds a database, and writes its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTRONN_STREAM_DATABASE_URL", f"sqlite:///{tmp_path / 'rows.sqlite'}")
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def run_the_page() -> dict[str, Any]:
    """Its Python, one piece after the other; the names that it leaves behind."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)  # noqa: S102 - our own page
    return names


@pytest.mark.usefixtures("engine", "folder")
def test_the_python_of_the_page_runs() -> None:
    names = run_the_page()
    assert len(names["labels"]) == 4
    assert np.isfinite(names["found"]["teff"]).tolist() == [True, True]
    assert len(names["frame"]) == 4
    assert names["promised"] == 1


def test_honest_uncertainties_are_said_to_be(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two visits of each star, the commonest case, whose scatter is what they say."""
    visits = survey(0, 1000, 2)
    with opened(f"sqlite:///{folder / 'rows.sqlite'}") as engine:
        fill(engine, replace(visits, e_labels=SCALES * visits.raw_e_labels + offsets()))
    run_the_page()
    (ratio,) = re.findall(r"over their uncertainty: ([\d.]+)", capsys.readouterr().out)
    assert float(ratio) == pytest.approx(1, abs=0.07)  # three times 1 / sqrt(2 * 1000)


def test_the_conditions_of_the_page_are_understood() -> None:
    (shown,) = re.findall(r"as Python writes it:\n\n(.*?)\n\n[A-Z]", PAGE, re.DOTALL)
    assert [condition(line) is not None for line in shown.splitlines()] == [True] * 6

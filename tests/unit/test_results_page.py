from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from worker.results.where import condition
from worker.settings import get_settings

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTRONN_STREAM_DATABASE_URL", str(engine.url))
    get_settings.cache_clear()
    names: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(block, names)  # noqa: S102 - our own page
    finally:
        get_settings.cache_clear()
    assert len(names["labels"]) == 4
    assert len(names["frame"]) == 4
    assert len(names["ratios"]) == 1


def test_the_conditions_of_the_page_are_understood() -> None:
    (shown,) = re.findall(r"as Python writes it:\n\n(.*?)\n\n[A-Z]", PAGE, re.DOTALL)
    assert [condition(line) is not None for line in shown.splitlines()] == [True] * 6

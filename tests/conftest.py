"""Fixtures of all tests: the real data, and servers that the tests start themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.settings import PREFIX, get_settings

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def shared(*parts: str) -> Path:
    """A file of the shared data; the test is skipped where it is missing."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data not found: {'/'.join(parts)}")
    return path


@pytest.fixture(scope="session")
def apstar_folder() -> Path:
    return shared("apstar")


@pytest.fixture(scope="session")
def astra_weights() -> Path:
    return shared("peer_models", "astra", "astra_style.pt")


@pytest.fixture(scope="session")
def corrections_pickle() -> Path:
    return shared("corrections", "AstroNN_corrections.pkl")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts without settings of its surroundings or of the test before."""
    import os

    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()

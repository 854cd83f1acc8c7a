from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import producer.run as run
from worker.errors import FatalError
from worker.settings import Settings


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[list[int]]], list[Any]]:
    """Runs ``_drive`` with waits that leave given jobs; what was sent and what was given up."""

    def play(left_after: list[list[int]]) -> list[Any]:
        happened: list[Any] = []
        answers = iter(left_after)
        monkeypatch.setattr(run, "dispatch", lambda _, jobs, *__, **___: happened.append(jobs))
        monkeypatch.setattr(run, "_wait", lambda *_: next(answers))
        monkeypatch.setattr(run, "_give_up", lambda _, jobs: happened.append(("give up", jobs)))
        plan = SimpleNamespace(weights="w", settings=Settings())
        run._drive(None, plan, [3, 1, 2], None, lambda _: None)  # type: ignore[arg-type]
        return happened

    return play


def test_jobs_that_no_round_moves_are_given_up(
    rounds: Callable[[list[list[int]]], list[Any]],
) -> None:
    everything = [1, 2, 3]
    assert rounds([everything] * 3) == [everything] * 3 + [("give up", everything)]


def test_progress_gives_the_others_all_their_attempts_again(
    rounds: Callable[[list[list[int]]], list[Any]],
) -> None:
    happened = rounds([[1, 2, 3], [1, 2, 3], [2, 3], [2, 3], [2, 3], []])
    assert happened[-1] == ("give up", [])
    assert len(happened) == 7


def test_a_broker_that_is_away_is_told_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "socket_folder", lambda: tmp_path)
    settings = Settings(broker_url=f"redis+socket://{tmp_path}/none.sock?virtual_host=0")
    with pytest.raises(FatalError, match="No redis-server answers"), run._stack(settings):
        pass
    assert list(tmp_path.iterdir()) == []

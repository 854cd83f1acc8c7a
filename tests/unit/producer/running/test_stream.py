from __future__ import annotations

from pathlib import Path

import pytest

import producer.running.stream as stream
from worker.errors import FatalError
from worker.settings import Settings


def test_a_broker_that_is_away_is_told_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "socket_folder", lambda: tmp_path)
    settings = Settings(broker_url=f"redis+socket://{tmp_path}/none.sock?virtual_host=0")
    with pytest.raises(FatalError, match="No redis-server answers"), stream._stack(settings):
        pass
    assert list(tmp_path.iterdir()) == []

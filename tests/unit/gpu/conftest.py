"""These tests need a GPU, or Triton's interpreter for the whole process (``test_triton.py``)."""

from __future__ import annotations

import os

import pytest
import torch

collect_ignore_glob = (
    [] if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
)


@pytest.fixture(autouse=True)
def _one_block_of_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time is that of its steps, however many numbers each has."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("worker.network.engines.triton.engine._POSITIONS", 2048)

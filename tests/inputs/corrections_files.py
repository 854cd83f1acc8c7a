"""What the tests of corrections files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import FatalError
from worker.results.noise_model import read_noise_model


def refusal(path: Path) -> str:
    """The sentence with which a file is refused; it names the file."""
    with pytest.raises(FatalError) as caught:
        read_noise_model(path)
    text = str(caught.value)
    assert path.name in text
    assert text.endswith(".")
    return text

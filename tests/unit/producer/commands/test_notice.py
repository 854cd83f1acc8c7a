"""What commands say of weights that come with the package, and of spectra that do not suit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.commands.notice import tell_simulated, tell_weights
from tests.inputs.apstar_files import write_apstar
from worker.identity import weights_sha256
from worker.starter.bundled import BUNDLED, DEMONSTRATION, STARTER, Bundled

SIMULATED = {"SIMULATE": True}


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return write_apstar(tmp_path / "real.fits").path


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    """Of a star of the simulator's own line list."""
    return write_apstar(tmp_path / "simulated.fits", cards=SIMULATED).path


def told(capsys: pytest.CaptureFixture[str], weights: Path, *files: Path) -> str:
    tell_simulated(weights_sha256(weights), files)
    return capsys.readouterr().out


def test_simulated_spectra_given_to_the_starter_get_one_sentence(
    capsys: pytest.CaptureFixture[str], real: Path, simulated: Path, tmp_path: Path
) -> None:
    said = told(capsys, STARTER.weights, simulated, simulated)
    assert said.count("--model demonstration") == 1
    assert said.count("\n") == 1
    (tmp_path / "text.fits").write_text("not FITS at all\n")
    assert told(capsys, STARTER.weights, tmp_path / "text.fits", real, simulated) == said


def test_nothing_is_said_of_spectra_that_suit_the_weights(
    capsys: pytest.CaptureFixture[str], real: Path, simulated: Path, tmp_path: Path
) -> None:
    like_real = write_apstar(tmp_path / "like.fits", cards=SIMULATED | {"STARLIKE": "giants"}).path
    assert told(capsys, STARTER.weights, real, like_real) == ""
    assert told(capsys, STARTER.weights) == ""
    assert told(capsys, DEMONSTRATION.weights, simulated) == ""
    assert told(capsys, real, simulated) == "", "weights of one's own"


def test_only_the_first_files_are_looked_at(
    capsys: pytest.CaptureFixture[str], real: Path, simulated: Path
) -> None:
    assert told(capsys, STARTER.weights, *[real] * 1000, simulated) == ""


@pytest.mark.parametrize("each", BUNDLED, ids=lambda each: each.name)
def test_weights_of_the_package_are_named_in_one_line(
    capsys: pytest.CaptureFixture[str], each: Bundled, real: Path
) -> None:
    tell_weights(weights_sha256(each.weights))
    said = capsys.readouterr().out
    assert said.startswith(f"Using the {each.name} weights: ")
    assert said.count("\n") == 1
    tell_weights(weights_sha256(real))
    assert capsys.readouterr().out == ""

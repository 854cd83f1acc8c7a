"""Weights of any origin learn what the spectra are like that they can be trusted with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from producer.commands.main import command_line
from tests.inputs.apstar_files import write_apstar
from worker.errors import UsageError
from worker.network.checkpoint import read_reference, write_checkpoint
from worker.settings import PREFIX, get_settings
from worker.training.new_network import new_network


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights, and spectra of twelve stars."""
    for name, value in {"MC_SAMPLES": 3, "LOAD_PROCESSES": 1, "DATA_ROOT": tmp_path}.items():
        monkeypatch.setenv(f"{PREFIX}{name}", str(value))
    get_settings.cache_clear()
    for seed in range(12):
        write_apstar(tmp_path / "spectra" / f"{seed}.fits", n_visits=17, seed=seed)
    write_checkpoint(tmp_path / "w.pt", new_network(0, (8, 8)), {"origin": "mine"}, half=True)
    return tmp_path


def model(*arguments: object) -> Result:
    return CliRunner().invoke(command_line(["model"]), ["model", *map(str, arguments)])


def make(folder: Path, out: str = "new.pt", *options: str) -> Result:
    command = ("reference", folder / "w.pt", folder / "spectra", "--out", folder / out)
    return model(*command, *options)


def test_the_same_weights_know_their_training_in_another_file(trusted: Path) -> None:
    before = (trusted / "w.pt").read_bytes()
    result = make(trusted)
    assert result.exit_code == 0, result.output
    assert "216 spectra, 0 that cannot be read." in result.stdout
    assert "new.pt: the weights of w.pt, and what 216 spectra are like." in result.stdout
    assert (trusted / "w.pt").read_bytes() == before
    old, new = (torch.load(trusted / name, weights_only=True) for name in ("w.pt", "new.pt"))
    assert old["model_state_dict"].keys() == new["model_state_dict"].keys()
    for key, value in old["model_state_dict"].items():
        torch.testing.assert_close(new["model_state_dict"][key], value, rtol=0, atol=0)
    assert new["metadata"]["origin"] == "mine"
    assert new["metadata"]["reference"]["spectra"] == 216
    assert str(trusted) not in json.dumps(new["metadata"])
    made = read_reference(trusted / "new.pt")
    assert made is not None
    spectra = np.load(trusted / "new.spectra.npy")
    answers = np.tile(made.answer_mean, (216, 1))
    labels, e_labels = answers[:, :22], np.exp(answers[:, 22:])
    found = made.p_training(made.unexplained(spectra), labels, e_labels, np.full(216, 100.0))
    assert (found >= 0.001).mean() > 0.9


def test_info_says_whether_weights_know_their_training(trusted: Path) -> None:
    make(trusted)
    text = model("info", trusted / "w.pt").stdout
    assert "none: p_training is not known; `model reference` makes one" in text
    assert "216 spectra tell which others are unlike" in model("info", trusted / "new.pt").stdout
    found = json.loads(model("info", trusted / "new.pt", "--json").stdout)
    assert (found["reference"], found["not_learnt"]) == (216, [])
    write_checkpoint(trusted / "w.pt", new_network(0, (8, 8)), {"not_learnt": ["p_h"]})
    assert "not learnt            1: p_h\n" in model("info", trusted / "w.pt").stdout


def test_too_few_spectra_are_refused_and_leave_no_weights(trusted: Path) -> None:
    result = make(trusted, "new.pt", "--kind", "coadd")
    assert isinstance(result.exception, UsageError)
    assert "12 spectra of known S/N do not tell" in str(result.exception)
    assert not (trusted / "new.pt").exists()


@pytest.mark.parametrize(
    ("out", "text"), [("new.npz", "as a .pt file"), ("none/new.pt", "its folder is missing")]
)
def test_where_nothing_can_be_written_is_told_first(trusted: Path, out: str, text: str) -> None:
    result = make(trusted, out)
    assert isinstance(result.exception, UsageError)
    assert text in str(result.exception)
    assert not list(trusted.glob("*.npy"))

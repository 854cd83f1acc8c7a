from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import on_peers_weights
from tests.unit.worker.network.test_checkpoint import Intruder
from worker.errors import FatalError
from worker.labels import LABEL_NAMES
from worker.network.checkpoint import (
    read_checkpoint,
    read_metadata,
    read_not_learnt,
    stored_type,
    write_checkpoint,
)
from worker.network.model import ApogeeBCNNCensored

State = dict[str, Tensor]

METADATA = {
    "format": 1,
    "trained_on": {"spectra": 1000, "snr": [20.5, None]},
    "purpose": "demonstration and testing",
    "half": False,
}


@pytest.fixture(scope="module")
def plain_state(weights: Path) -> State:
    return written_state(weights)


@pytest.fixture
def written(tmp_path: Path, model: ApogeeBCNNCensored) -> Path:
    path = tmp_path / "written.pt"
    write_checkpoint(path, model, METADATA)
    return path


def written_state(path: Path) -> State:
    state: State = torch.load(path, weights_only=True)["model_state_dict"]
    return state


@on_peers_weights
def test_a_written_file_has_the_keys_types_and_values_of_astras(
    written: Path, plain_state: State
) -> None:
    state = written_state(written)
    assert state.keys() == plain_state.keys()
    for key, value in plain_state.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)  # and dtype and shape


def test_half_precision_is_for_the_weights_alone(
    tmp_path: Path, model: ApogeeBCNNCensored, plain_state: State
) -> None:
    path = tmp_path / "half.pt"
    write_checkpoint(path, model, METADATA, half=True)
    assert stored_type(path) == "float16"
    state = written_state(path)
    assert state.keys() == plain_state.keys()
    for key, value in plain_state.items():
        dtype = torch.float16 if value.dtype == torch.float32 else value.dtype
        torch.testing.assert_close(state[key], value.to(dtype), rtol=0, atol=0)
    assert {"input_mean", "labels_mean", "labels_std"} == {
        key for key, value in state.items() if value.dtype == torch.float64
    }
    assert path.stat().st_size < 0.55 * sum(v.nbytes for v in plain_state.values())


def test_half_precision_is_read_as_float32(tmp_path: Path, model: ApogeeBCNNCensored) -> None:
    path = tmp_path / "half.pt"
    write_checkpoint(path, model, {}, half=True)
    read = read_checkpoint(path)
    for name, parameter in read.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, model.get_parameter(name).half().float())
    labels, _ = read(torch.zeros(1, 7514))
    expected, _ = model(torch.zeros(1, 7514))
    torch.testing.assert_close(labels, expected, rtol=0, atol=0.01)  # of the labels' scatter


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path, weights: Path) -> None:
    model = read_checkpoint(weights)
    model.elem_dense2[3].bias[2] = 7e4
    with pytest.raises(FatalError, match=r"half\.pt cannot .* float16: elem_dense2\.3\.bias is"):
        write_checkpoint(tmp_path / "half.pt", model, {}, half=True)
    assert not list(tmp_path.iterdir())


def test_a_network_survives_writing_and_reading(written: Path, model: ApogeeBCNNCensored) -> None:
    read = read_checkpoint(written).state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(read[key], value, rtol=0, atol=0)
    assert stored_type(written) == "float32"


def test_equal_networks_give_equal_files(tmp_path: Path, written: Path, weights: Path) -> None:
    # In another process, under another name, with metadata put together in another way: no
    # two of the values below are the same object.
    program = """
import sys
from pathlib import Path
from worker.network.checkpoint import read_checkpoint, write_checkpoint
text = "purp" + str("ose")
metadata = {"format": int("1"), "trained_on": {"spectra": 999 + 1, "snr": (41 / 2, None)},
            text: " ".join(["demonstration", "and", "testing"]), "half": not 1}
write_checkpoint(Path(sys.argv[2]), read_checkpoint(Path(sys.argv[1])), metadata)
"""
    other = tmp_path / "another name.pt"
    subprocess.run([sys.executable, "-c", program, str(weights), str(other)], check=True)
    assert other.read_bytes() == written.read_bytes()


def test_a_file_is_replaced_whole_and_nothing_else_is_left(
    written: Path, model: ApogeeBCNNCensored
) -> None:
    before = written.stat().st_ino
    write_checkpoint(written, model, {"format": 2})
    assert written.stat().st_ino != before  # a reader of the old one keeps it
    assert read_metadata(written) == {"format": 2}
    assert list(written.parent.iterdir()) == [written]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, model: ApogeeBCNNCensored) -> None:
    with pytest.raises(FatalError, match="cannot be written: No such file or directory"):
        write_checkpoint(tmp_path / "missing" / "weights.pt", model, {})
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(FatalError, match="cannot be written: Is a directory"):
        write_checkpoint(tmp_path / "folder.pt", model, {})


@pytest.mark.parametrize("value", [float("nan"), Path("a"), {1, 2}, torch.zeros(1)])
def test_metadata_that_are_not_plain_are_not_written(
    tmp_path: Path, model: ApogeeBCNNCensored, value: object
) -> None:
    with pytest.raises((ValueError, TypeError)):
        write_checkpoint(tmp_path / "weights.pt", model, {"value": value})
    assert not list(tmp_path.iterdir())


# --- Metadata ------------------------------------------------------------------------------


def test_metadata_survive_writing_and_reading(written: Path) -> None:
    assert read_metadata(written) == METADATA


@on_peers_weights
def test_a_file_of_others_has_no_metadata(tmp_path: Path, weights: Path) -> None:
    assert read_metadata(weights) == {}
    torch.save([1], tmp_path / "list.pt")
    assert read_metadata(tmp_path / "list.pt") == {}


def endless() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["metadata"] = metadata
    return metadata


def many() -> dict[str, Any]:
    """2^40 entries in a file of a few hundred bytes."""
    entries: list[Any] = []
    for _ in range(40):
        entries = [entries, entries]
    return {"entries": entries}


def deep() -> dict[str, Any]:
    """Lists in lists; some thousand would be too deep for what prints them."""
    entries: list[Any] = []
    for _ in range(100):
        entries = [entries]
    return {"entries": entries}


@pytest.mark.parametrize(
    "metadata",
    [
        *(3, "text", None, [1], {1: "a"}, {"a": {2: "b"}}, {"a": torch.zeros(2)}, {"a": b"b"}),
        *({"a": (1, 2)}, {"a": float("nan")}, endless(), many(), deep()),
    ],
    ids=[
        *("number", "text", "none", "list", "numbered", "numbered inside", "tensor", "bytes"),
        *("tuple", "nan", "endless", "many", "deep"),
    ],
)
def test_metadata_that_are_not_plain_are_refused(tmp_path: Path, metadata: object) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model_state_dict": {}, "metadata": metadata}, path)
    with pytest.raises(FatalError, match=r"^The metadata of weights\.pt are not plain values"):
        read_metadata(path)


def test_weights_say_which_labels_they_have_not_learnt(
    tmp_path: Path, model: ApogeeBCNNCensored
) -> None:
    path = tmp_path / "some.pt"
    for names in (["v_h", "p_h"], []):
        write_checkpoint(path, model, {"not_learnt": names})
        assert read_not_learnt(path) == tuple(sorted(names))
    write_checkpoint(path, model, {})
    assert read_not_learnt(path) == ()


@pytest.mark.parametrize("names", ["p_h", ["p"], [["p_h"]], list(LABEL_NAMES), {"p_h": 1}, None])
def test_weights_that_say_nonsense_of_their_labels_are_refused(
    tmp_path: Path, model: ApogeeBCNNCensored, names: object
) -> None:
    write_checkpoint(tmp_path / "some.pt", model, {"not_learnt": names})
    with pytest.raises(FatalError, match=r"some\.pt says nothing sensible of which labels"):
        read_not_learnt(tmp_path / "some.pt")


def test_metadata_that_run_code_are_refused(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    torch.save({"metadata": Intruder(os.mkdir, str(trace))}, path)
    with pytest.raises(FatalError, match="not a PyTorch checkpoint"):
        read_metadata(path)
    assert not trace.exists()

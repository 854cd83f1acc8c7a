from __future__ import annotations

import builtins
import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import on_peers_weights
from worker.errors import FatalError
from worker.identity import weights_sha256
from worker.network import checkpoint
from worker.network.checkpoint import read_checkpoint
from worker.network.model import ApogeeBCNNCensored

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def plain_state(weights: Path) -> State:
    content = torch.load(weights, weights_only=True)
    state: State = content["model_state_dict"]
    return state


def save(path: Path, state: State) -> Path:
    torch.save({"model_state_dict": state}, path)
    return path


def refusal(path: Path) -> str:
    """What the reader says: one sentence that names the file and gives no traceback."""
    with pytest.raises(FatalError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert path.name in text
    assert text.endswith(".")
    assert "\n" not in text
    return text


class Intruder:
    """Unpickles as a call of ``function``, as a hostile file would have it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "weights.pt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").mkdir()
    assert "cannot be read" in refusal(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is text\n",
        b"<html>404 Not Found</html>\n",
        b"[1, 2, 3]\n",
        bytes(range(256)) * 4,
        b"\x80\x02}q\x00(X",
        b"\x80\x02K\x01",
        b"SIMPLE  =                    T",
    ],
    ids=["empty", "text", "html", "json", "bytes", "cut pickle", "pickle without end", "fits"],
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert "not a PyTorch checkpoint" in refusal(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/notes.txt", "not weights")
    assert "not a PyTorch checkpoint" in refusal(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, weights: Path, part: float) -> None:
    content = weights.read_bytes()
    path = tmp_path / "weights.pt"
    path.write_bytes(content[: int(part * len(content))])
    assert "not a PyTorch checkpoint" in refusal(path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4:UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "touch {}"), (builtins.eval, "open({!r}, 'w')"), (os.mkdir, "{}")],
    ids=["os.system", "eval", "os.mkdir"],
)
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(
    tmp_path: Path, function: Callable[..., Any], argument: str, zipped: bool, protocol: int
) -> None:
    trace = tmp_path / "trace"
    hostile = {"model_state_dict": Intruder(function, argument.format(str(trace)))}
    path = tmp_path / "weights.pt"
    if zipped:
        torch.save(hostile, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(hostile, protocol))
    assert "not a PyTorch checkpoint" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("function", [os.system, builtins.eval], ids=["os.system", "eval"])
def test_the_refusal_does_not_pass_on_torchs_advice_to_lower_the_guard(
    tmp_path: Path, function: Callable[..., Any]
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model_state_dict": Intruder(function, "0")}, path)
    text = refusal(path)
    assert "weights_only" not in text
    assert "\x1b" not in text  # its terminal colours, either


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {"state_dict": {"conv1.weight": torch.zeros(2, 1, 8)}},
        {"model_state_dict": [torch.zeros(2)]},
        {"model_state_dict": {"conv1.weight": 3.0}},
        {"model_state_dict": {1: torch.zeros(2)}},
    ],
    ids=["list", "other name", "no dictionary", "no tensor", "numbered"],
)
def test_a_checkpoint_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    assert "model_state_dict" in refusal(path)


@pytest.mark.parametrize(
    "key",
    ["conv1.weight", "dense_1.weight", "elem_dense1.7.bias", "elem_dense2.18.weight", "input_mean"],
)
def test_a_missing_key_is_named(tmp_path: Path, plain_state: State, key: str) -> None:
    state = {name: value for name, value in plain_state.items() if name != key}
    assert key in refusal(save(tmp_path / "weights.pt", state))


def test_a_missing_mask_is_named(tmp_path: Path, plain_state: State) -> None:
    state = {k: v for k, v in plain_state.items() if k != "aspcap_masks.4"}
    assert "lacks aspcap_masks.4." in refusal(save(tmp_path / "weights.pt", state))


@pytest.mark.parametrize("key", ["dense_3.weight", "aspcap_masks.19", "window_4"])
def test_an_unknown_key_is_named(tmp_path: Path, plain_state: State, key: str) -> None:
    state = plain_state | {key: torch.zeros(7514)}
    assert f"{key} is unknown" in refusal(save(tmp_path / "weights.pt", state))


@pytest.mark.parametrize(
    ("key", "shape", "wanted"),
    [
        ("conv2.weight", (4, 2, 7), (4, 2, 8)),
        ("dense_2.weight", (96, 191), (96, 192)),
        ("elem_dense_out.3.weight", (1, 20), (1, 21)),
        ("labels_std", (21,), (22,)),
        ("input_mean", (8575,), (7514,)),
    ],
)
def test_a_wrong_shape_is_named(
    tmp_path: Path,
    plain_state: State,
    key: str,
    shape: tuple[int, ...],
    wanted: tuple[int, ...],
) -> None:
    state = plain_state | {key: torch.zeros(shape)}
    assert f"{key} has shape {shape}, not {wanted}" in refusal(save(tmp_path / "weights.pt", state))


def test_every_problem_is_named(tmp_path: Path, plain_state: State) -> None:
    state = plain_state | {"extra": torch.zeros(1), "labels_mean": torch.zeros(3)}
    del state["conv1.bias"]
    text = refusal(save(tmp_path / "weights.pt", state))
    assert all(name in text for name in ("extra", "labels_mean", "conv1.bias"))


def test_of_very_many_problems_some_are_named(tmp_path: Path, plain_state: State) -> None:
    state = plain_state | {f"layer_{i:02}": torch.zeros(1) for i in range(40)}
    text = refusal(save(tmp_path / "weights.pt", state))
    assert "layer_09 is unknown; and 30 more." in text
    assert "layer_10" not in text


@pytest.mark.parametrize("key", ["conv1.weight", "elem_dense_var.9.bias", "labels_std"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(
    tmp_path: Path, plain_state: State, key: str, value: float
) -> None:
    damaged = plain_state[key].clone()
    damaged.view(-1)[-1] = value
    text = refusal(save(tmp_path / "weights.pt", plain_state | {key: damaged}))
    assert f"{key} has values that are not finite" in text


def test_a_weight_that_only_float64_can_hold_is_named(tmp_path: Path, plain_state: State) -> None:
    large = plain_state["conv1.weight"].double().fill_(1e300)
    text = refusal(save(tmp_path / "weights.pt", plain_state | {"conv1.weight": large}))
    assert "conv1.weight has values that are not finite" in text


# --- Small files that claim to be large ----------------------------------------------------


@pytest.mark.parametrize("key", ["dense_1.weight", "labels_std", "extra"])
def test_a_tensor_that_claims_more_than_its_file_holds_is_refused(
    tmp_path: Path, plain_state: State, key: str
) -> None:
    path = save(tmp_path / "weights.pt", plain_state | {key: torch.zeros(1).expand(10**7, 7512)})
    assert path.stat().st_size < 2**25
    assert f"{key} is no plain tensor" in refusal(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(22).to_sparse(),
        torch.empty(22, device="meta"),
        torch.ones(22, dtype=torch.complex64),
        torch.ones(22).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "meta", "complex", "float8"],
)
def test_a_tensor_of_another_kind_is_refused(
    tmp_path: Path, plain_state: State, tensor: Tensor
) -> None:
    path = save(tmp_path / "weights.pt", plain_state | {"labels_mean": tensor})
    assert "labels_mean is no plain tensor" in refusal(path)


@pytest.mark.parametrize("key", ["dense_1.weight", "dense_2.weight", "elem_dense2.3.weight"])
@pytest.mark.parametrize("shape", [(10**9, 0), (1025, 2), (0, 7512)])
def test_a_width_that_no_layer_has_is_refused(
    tmp_path: Path, plain_state: State, key: str, shape: tuple[int, int]
) -> None:
    text = refusal(save(tmp_path / "weights.pt", plain_state | {key: torch.zeros(shape)}))
    assert f"{key.removesuffix('.weight')} has {shape[0]} units" in text


def test_an_archive_that_unpacks_to_more_than_a_network_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = save(tmp_path / "plain.pt", {"extra": torch.zeros(500_000)})
    path = tmp_path / "weights.pt"
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "lacks dense_1.weight" in refusal(path)  # torch does unpack it
    monkeypatch.setattr(checkpoint, "_MOST_BYTES", 2**20)
    assert path.stat().st_size < 2**20
    assert "unpacks to" in refusal(path)


def other_widths(state: State, dense: tuple[int, int], element: tuple[int, int]) -> State:
    """The state with other hidden widths: of the full branch, and of the iron-peak Ni branch."""
    generator = torch.Generator().manual_seed(1)

    def layer(name: str, outputs: int, inputs: int) -> State:
        weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}

    window = state["elem_dense1.18.weight"].shape[1]
    return (
        state
        | layer("dense_1", dense[0], 7512)
        | layer("dense_2", dense[1], dense[0])
        | layer("dense_teffloggfeh", 3, dense[1])
        | layer("dense_teffloggfeh_var", 3, dense[1])
        | layer("dense_aux_fullspec", 2, dense[1])
        | layer("elem_dense1.18", element[0], window)
        | layer("elem_dense2.18", element[1], element[0])
        | layer("elem_dense_out.18", 1, element[1] + 5)
        | layer("elem_dense_var.18", 1, element[1] + 5)
    )


@pytest.mark.parametrize(
    ("dense", "element"), [((192, 96), (32, 16)), ((256, 96), (32, 16)), ((192, 64), (40, 8))]
)
def test_widths_are_read_from_the_weights(
    tmp_path: Path, plain_state: State, dense: tuple[int, int], element: tuple[int, int]
) -> None:
    state = other_widths(plain_state, dense, element)
    model = read_checkpoint(save(tmp_path / "weights.pt", state))
    assert model.architecture.dense == dense
    assert model.architecture.element1[18] == element[0]
    assert model.architecture.element2[18] == element[1]
    sites = model.architecture.dropout_sites
    assert sites["dense_1"] == dense[0]
    assert (sites["elem_dense1.18"], sites["elem_dense2.18"]) == element
    labels, log_variances = model(torch.zeros(3, 7514))
    assert labels.shape == log_variances.shape == (3, 22)
    torch.testing.assert_close(model.dense_1.weight.data, state["dense_1.weight"])


@on_peers_weights
def test_a_network_is_ready_for_inference_alone(weights: Path) -> None:
    model = read_checkpoint(weights)
    assert isinstance(model, ApogeeBCNNCensored)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@on_peers_weights
def test_every_tensor_of_the_file_is_used(weights: Path, plain_state: State) -> None:
    loaded = read_checkpoint(weights).state_dict()
    assert len(loaded) == len(plain_state)
    for key, value in plain_state.items():
        if key.startswith("aspcap_masks."):
            window = loaded[f"window_{key.removeprefix('aspcap_masks.')}"]
            torch.testing.assert_close(window, value.nonzero().flatten())
        else:
            torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)


def test_the_weights_are_named_by_the_hash_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"any bytes")
    assert weights_sha256(path) == hashlib.sha256(b"any bytes").hexdigest()


def test_the_hash_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"weights\.pt cannot be read: No such file"):
        weights_sha256(tmp_path / "weights.pt")


def test_a_mask_of_another_length_is_refused(tmp_path: Path, plain_state: State) -> None:
    mask = torch.cat([plain_state["aspcap_masks.4"], torch.zeros(1061).bool()])
    text = refusal(save(tmp_path / "long.pt", plain_state | {"aspcap_masks.4": mask}))
    assert "aspcap_masks.4 has shape (8575,)" in text

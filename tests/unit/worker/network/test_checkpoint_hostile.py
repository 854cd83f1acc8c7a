"""Small files that would take for ever, or fill the memory, or give labels without a meaning."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import on_peers_weights, shared
from tests.unit.worker.network.test_checkpoint import refusal, save
from worker.network.checkpoint import read_checkpoint

State = dict[str, Tensor]
NO_CHECKPOINT = "not a PyTorch checkpoint"

PICKLES = {
    "hash without end": b"}" + b")" + b"2\x86" * 60 + b"Ns",
    "calls with many arguments": b"ctorch\nTensor\nq\x00("
    + b"N" * 100_000
    + b"tq\x01"
    + b"h\x00h\x01R0" * 25_000,
    "long key, often": b"\x8b\xf0\x49\x02\x00"
    + b"\x7f" * 150_000
    + b"q\x00}"
    + b"h\x00Ns" * 25_000,
    "set": b"\x8f(K\x01\x90",
    "no storage": b"K\x01Q",
}


@pytest.fixture(scope="module")
def state(weights: Path) -> State:
    content: dict[str, State] = torch.load(weights, weights_only=True)
    return content["model_state_dict"]


def packed(path: Path, bomb: str, lying: bool) -> None:
    """Make one member unpack to 256 MiB; the directory says so, or still the size of before."""
    source = path.rename(path.with_suffix(".plain"))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if not name.endswith(bomb):
                new.writestr(name, old.read(name))
                continue
            with new.open(name, "w") as member:
                for _ in range(256):
                    member.write(bytes(2**20))
            if lying:
                new.getinfo(name).file_size = old.getinfo(name).file_size


def bombs(folder: Path, state: State) -> dict[Path, str]:
    """Hostile files, and what is to be said of them."""
    said = {}
    for name, content in PICKLES.items():
        path = folder / f"{name}.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        said[path] = NO_CHECKPOINT
    for name, more in {
        "20,000 tensors": {f"t{i}": torch.zeros(20) for i in range(20_000)},
        "one number many times": {f"t{i}": torch.zeros(1).expand(7_000_000) for i in range(100)},
        "one storage many times": dict.fromkeys(map(str, range(100)), torch.zeros(200_000)),
    }.items():
        said[save(folder / f"{name}.pt", state | more)] = ""
    wide = {key: torch.zeros(1024, 1) for key in state if "dense" in key}
    said[save(folder / "wide.pt", state | wide)] = "its layers would have"
    for name, bomb, lying in (
        ("large", "data/0", False),
        ("lying", "data/0", True),
        ("large pickle", "data.pkl", False),
        ("lying pickle", "data.pkl", True),
    ):
        said[path := save(folder / f"{name}.pt", state)] = NO_CHECKPOINT
        packed(path, bomb, lying)
    with zipfile.ZipFile(folder / "entries.pt", "w") as archive:
        for number in range(10_000):
            archive.writestr(f"archive/{number:0>100}", b"")
    return said | {folder / "entries.pt": NO_CHECKPOINT}


def test_bombs_are_refused_at_once_and_in_little_memory(
    tmp_path: Path, weights: Path, state: State
) -> None:
    said = bombs(tmp_path, state)
    program = """
import resource, sys
from pathlib import Path
from worker.errors import FatalError
from worker.network.checkpoint import read_checkpoint
known, *files = map(Path, sys.argv[1:])
read_checkpoint(known)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in files:
    try:
        read_checkpoint(path)
    except FatalError as error:
        print(str(error)[:200])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(weights), *map(str, said)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,  # some would never end
    )
    *texts, grown = done.stdout.splitlines()
    assert len(texts) == len(said), done.stdout
    for text, (path, what) in zip(texts, said.items(), strict=True):
        assert path.name in text
        assert what in text, path.name
    assert int(grown) < 100 * 2**10


def test_the_bomb_that_was_found_in_the_field_is_refused() -> None:
    assert NO_CHECKPOINT in refusal(shared("field", "tuplebomb.pt"))


def test_of_two_archives_in_one_file_one_alone_is_read(
    tmp_path: Path, weights: Path, state: State
) -> None:
    # Whatever finds the first of them sees other weights.
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    content = save(tmp_path / "other.pt", other).read_bytes() + weights.read_bytes()
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    read = read_checkpoint(path).state_dict()
    torch.testing.assert_close(read["labels_mean"], state["labels_mean"], rtol=0, atol=0)
    assert read["labels_std"].min() > 0


@pytest.mark.parametrize("kind", ["torch.nn.Parameter", "of one storage", "transposed"])
def test_tensors_are_read_however_they_lie_in_the_file(
    tmp_path: Path, state: State, kind: str
) -> None:
    key = "dense_2.weight"
    whole = torch.cat([torch.ones(7), state[key].flatten(), torch.ones(7)])
    value = {
        "torch.nn.Parameter": torch.nn.Parameter(state[key]),
        "of one storage": whole[7:-7].view(state[key].shape),
        "transposed": state[key].T.contiguous().T,
    }[kind]
    read = read_checkpoint(save(tmp_path / "weights.pt", state | {key: value})).state_dict()
    torch.testing.assert_close(read[key], state[key], rtol=0, atol=0)


def test_what_lies_beside_the_weights_does_not_count(tmp_path: Path, state: State) -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimiser = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    optimiser.step()
    path = tmp_path / "weights.pt"
    torch.save({"model_state_dict": state, "optimizer": optimiser.state_dict(), "epoch": 3}, path)
    read_checkpoint(path)


@pytest.mark.parametrize("value", [0.0, -0.3, 1e-300, 1e300])
def test_a_scatter_of_labels_that_none_have_is_refused(
    tmp_path: Path, state: State, value: float
) -> None:
    damaged = state["labels_std"].clone()
    damaged[3] = value
    text = refusal(save(tmp_path / "weights.pt", state | {"labels_std": damaged}))
    assert "labels_std has values that are not 1e-06 to 100000" in text


@pytest.mark.parametrize("key", ["labels_mean", "input_mean"])
def test_means_that_none_have_are_refused(tmp_path: Path, state: State, key: str) -> None:
    damaged = state[key].clone()
    damaged[3] = -1e6
    text = refusal(save(tmp_path / "weights.pt", state | {key: damaged}))
    assert f"{key} has values beyond 100000" in text


@on_peers_weights
def test_a_mask_may_be_of_any_byte(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "weights.pt"
    expected = read_checkpoint(weights)
    with zipfile.ZipFile(weights) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            is_mask = len(content) == 7514 and not content.strip(b"\0\1")
            new.writestr(name, content.replace(b"\1", b"\2") if is_mask else content)
    read = read_checkpoint(path)
    assert all(torch.equal(read.window(i), expected.window(i)) for i in range(19))

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.inputs.keras_folders import KerasFolder, Layers, keras_folder, set_inputs
from tests.inputs.keras_written import DR17


@pytest.fixture
def folder(tmp_path: Path) -> KerasFolder:
    return KerasFolder(tmp_path)


@pytest.mark.parametrize("where", ["model_weights", "model_weights/conv1d"])
@pytest.mark.parametrize("kind", ["external", "soft"])
def test_links_are_not_followed(folder: KerasFolder, where: str, kind: str) -> None:
    # The very content that belongs there, but elsewhere: it would be taken if it were followed.
    other = str(keras_folder(DR17) / "model_weights.h5")
    with folder.h5 as file:
        file.move(where, "aside")
        file[where] = (
            h5py.ExternalLink(other, where) if kind == "external" else h5py.SoftLink("/aside")
        )
    assert "is a link to elsewhere" in folder.refusal()


def test_data_outside_the_file_are_not_read(folder: KerasFolder) -> None:
    secret = folder.path / "secret"
    secret.write_bytes(bytes(4 * 96))
    with folder.h5 as file:
        group = file["model_weights/dense_3/dense_3"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", (96, 1), "f4", external=[(str(secret), 0, 4 * 96)])
    assert "layer dense_3 keeps its kernel outside the file" in folder.refusal()


def test_data_put_together_from_other_files_are_not_read(folder: KerasFolder) -> None:
    layout = h5py.VirtualLayout((96, 1), "f4")
    layout[:] = h5py.VirtualSource(
        str(keras_folder(DR17) / "model_weights.h5"),
        "model_weights/dense_3/dense_3/kernel:0",
        (96, 1),
    )
    with folder.h5 as file:
        group = file["model_weights/dense_3/dense_3"]
        del group["kernel:0"]
        group.create_virtual_dataset("kernel:0", layout)
    assert "layer dense_3 keeps its kernel outside the file" in folder.refusal()


def test_an_array_that_claims_to_be_huge_is_not_allocated(folder: KerasFolder) -> None:
    with folder.h5 as file:
        group = file["model_weights/dense/dense"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", (7512, 10**12), "f4", chunks=(8, 8))
    assert "layer dense has a kernel of shape (7512, 1000000000000)" in folder.refusal()


def test_an_array_that_unpacks_to_more_than_its_shape_is_not_unpacked(folder: KerasFolder) -> None:
    with folder.h5 as file:
        group = file["model_weights/dense_3/dense_3"]
        del group["kernel:0"]
        kernel = group.create_dataset("kernel:0", (96, 1), "f4", chunks=(96, 1), compression="gzip")
        kernel.id.write_direct_chunk((0, 0), zlib.compress(bytes(10**6)))
        assert (kernel[:] == 0).all()  # HDF5 does unpack it
    assert "layer dense_3 keeps its kernel in pieces" in folder.refusal()


def test_an_array_without_its_numbers_is_not_filled_up(folder: KerasFolder) -> None:
    with folder.h5 as file:
        group = file["model_weights/dense_3/dense_3"]
        del group["kernel:0"]
        group.create_dataset("kernel:0", (96, 1), "f4")
    assert "layer dense_3 has a kernel without its numbers" in folder.refusal()


def test_a_group_of_very_many_is_not_listed(folder: KerasFolder) -> None:
    with folder.h5 as file:
        for number in range(1001):
            file.create_group(f"model_weights/{number}")
    assert "entries in one place" in folder.refusal()


def test_a_file_that_is_too_large_is_not_opened(folder: KerasFolder) -> None:
    with (folder.path / "model_weights.h5").open("r+b") as file:
        file.truncate(2**28 + 1)
    assert "is too large" in folder.refusal()


def test_a_group_that_holds_itself_is_refused(folder: KerasFolder) -> None:
    with folder.h5 as file:
        file["model_weights/conv1d/again"] = file["model_weights/conv1d"]
    assert "layer conv1d" in folder.refusal()


def test_layers_that_read_each_other_are_refused(folder: KerasFolder) -> None:
    folder.edit_layers(lambda layers: set_inputs(layers["conv1d"], ["output"]))
    assert "reads itself, by way of others" in folder.refusal()


def test_signals_that_multiply_without_end_are_refused(folder: KerasFolder) -> None:
    def multiply(layers: Layers) -> None:
        before = "dense_2"
        for number in range(60):  # 2^60 signals
            name = f"bomb_{number}"
            layers[name] = json.loads(json.dumps(layers["concatenate"]))
            layers[name]["name"] = name
            set_inputs(layers[name], [before, before])
            before = name

    folder.edit_layers(multiply)
    assert "joins more than 100 signals" in folder.refusal()


@pytest.mark.parametrize(
    "config",
    [
        *("", "[]", "{}", '{"config": {"layers": 3}}', '{"config": {"layers": [[]]}}'),
        *('{"config": {"layers": [{}]}}', "[" * 100_000, "null"),
        json.dumps({"config": {"layers": [{"name": "a\x1b[2J"} | dict.fromkeys("xy")] * 3}}),
    ],
    ids=str.__len__,
)
def test_a_graph_that_is_none_is_refused(folder: KerasFolder, config: str) -> None:
    with folder.h5 as file:
        folder.write_config(file, config)
    assert "model_config is not that of a functional Keras model" in folder.refusal()


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([[["input", 0, 0, {}]], [["input", 0, 0, {}]]], "layer conv1d is used more than once"),
        ([[["input", 1, 0, {}]]], "layer conv1d does not read the one output"),
        ([{"args": [], "kwargs": {}}], "layer conv1d is written in the format of Keras 3"),
        ([[[["input"], 0, 0, {}]]], "layer conv1d does not read the one output"),
        ([[["\x1b[2J", 0, 0, {}]]], "layer conv1d does not read the one output"),
        ([], "layer conv1d reads nothing"),
    ],
    ids=["twice", "second use", "Keras 3", "list", "steering the terminal", "nothing"],
)
def test_connections_of_another_kind_are_refused(
    folder: KerasFolder, nodes: list[Any], said: str
) -> None:
    def reconnect(layers: Layers) -> None:
        layers["conv1d"]["inbound_nodes"] = nodes

    folder.edit_layers(reconnect)
    assert said in folder.refusal()

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inputs.keras_folders import KerasFolder, Layers, inputs, rewire, set_inputs
from tests.inputs.keras_written import DR16, DR17, JSON
from worker.errors import FatalError, UsageError
from worker.network.keras.convert import convert

Edit = Callable[[Layers], Any]


@pytest.fixture
def folder(tmp_path: Path) -> KerasFolder:
    return KerasFolder(tmp_path)


# --- What is no folder of astroNN's --------------------------------------------------------


def test_a_missing_folder_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: there is no such folder\."):
        convert(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model_weights.h5", JSON])
def test_a_folder_without_one_of_the_files_is_wrong_use(folder: KerasFolder, name: str) -> None:
    (folder.path / name).unlink()
    with pytest.raises(UsageError, match=f"it has no {name}"):
        convert(folder.path)


def test_a_folder_is_named_where_one_stands_in_it(
    folder: KerasFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "model_weights.h5").write_bytes(b"nothing")
    monkeypatch.chdir(folder.path)
    with pytest.raises(FatalError, match=rf"^{DR17}/model_weights\.h5 is damaged"):
        convert(Path())


@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_cut_file_is_refused(folder: KerasFolder, part: float) -> None:
    path = folder.path / "model_weights.h5"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "damaged or not an HDF5 file" in folder.refusal()


def test_weights_without_a_graph_are_refused(folder: KerasFolder) -> None:
    with folder.h5 as file:
        del file.attrs["model_config"]
    assert "it holds no model_config" in folder.refusal()


# --- Layers that are missing, unknown or different -----------------------------------------


@pytest.mark.parametrize("layer", ["conv1d", "dense_3", "ni_dense", "c_concat_var", "MCDropout_7"])
@pytest.mark.parametrize("name", [DR17, DR16])
def test_a_layer_that_is_missing_in_the_file_is_named(
    tmp_path: Path, name: str, layer: str
) -> None:
    layer = {"conv1d": "conv1d_1"}.get(layer, layer) if name == DR16 else layer
    folder = KerasFolder(tmp_path, name)
    with folder.h5 as file:
        del file[f"model_weights/{layer}"]
    assert f"layer {layer} is missing in model_weights" in folder.refusal()


@pytest.mark.parametrize("layer", ["input", "conv1d", "dense_3", "ni_dense", "P_Mask", "dense_7"])
def test_a_layer_that_is_missing_in_the_graph_is_named(folder: KerasFolder, layer: str) -> None:
    folder.edit_layers(lambda layers: {k: v for k, v in layers.items() if k != layer})
    assert f"layer {layer}, which " in folder.refusal()


@pytest.mark.parametrize("output", ["output", "variance_output"])
def test_a_missing_output_is_named(folder: KerasFolder, output: str) -> None:
    folder.edit_layers(lambda layers: {k: v for k, v in layers.items() if k != output})
    assert f"layer {output} is missing in the graph" in folder.refusal()


def test_a_layer_whose_weights_are_gone_is_named(folder: KerasFolder) -> None:
    with folder.h5 as file:
        del file["model_weights/mg_dense_2/mg_dense_2/bias:0"]
    assert "layer mg_dense_2 has the weights 'kernel', not 'bias', 'kernel'" in folder.refusal()


def test_a_layer_with_more_weights_is_named(folder: KerasFolder) -> None:
    with folder.h5 as file:
        file["model_weights/mg_dense_2/mg_dense_2/gamma:0"] = np.zeros(16, np.float32)
    assert "layer mg_dense_2 has the weights 'bias', 'gamma', 'kernel'" in folder.refusal()


def test_weights_that_the_graph_does_not_know_are_named(folder: KerasFolder) -> None:
    with folder.h5 as file:
        file["model_weights/y_dense/kernel:0"] = np.zeros((3, 2), np.float32)
    assert "layer 'y_dense' of model_weights is missing in the graph" in folder.refusal()


def test_a_layer_that_the_network_does_not_have_is_named(folder: KerasFolder) -> None:
    def add(layers: Layers) -> None:
        layers["y_dense"] = json.loads(json.dumps(layers["dense_4"]).replace("dense_4", "y_dense"))

    folder.edit_layers(add)
    assert "layer y_dense has no place in ApogeeBCNNCensored" in folder.refusal()


def change(layer: str, key: str, value: Any) -> Edit:
    def edit(layers: Layers) -> None:
        assert key == "class_name" or key in layers[layer]["config"]
        (layers[layer] if key == "class_name" else layers[layer]["config"])[key] = value

    return edit


@pytest.mark.parametrize(
    ("layer", "key", "value", "said"),
    [
        ("MCDropout_3", "rate", 0.2, "has rate 0.2, not 0.3"),
        ("MCDropout_39", "rate", None, "has rate None, not 0.3"),
        ("MCDropout_5", "noise_shape", [None, 1], r"has noise_shape [None, 1], not None"),
        ("MCDropout_5", "class_name", "MCGaussianDropout", "is a MCGaussianDropout, which"),
        ("MCDropout_5", "class_name", "Dropout", "is a Dropout, which"),
        ("conv1d", "kernel_size", [7], "has kernel_size [7], not [8]"),
        ("conv1d", "filters", 3, "has a kernel of shape (8, 1, 3), which does not fit conv1"),
        ("conv1d_1", "padding", "valid", "has padding 'valid', not 'same'"),
        ("conv1d_1", "strides", [2], "has strides [2], not [1]"),
        ("conv1d_1", "dilation_rate", [2], "has dilation_rate [2], not [1]"),
        ("conv1d_1", "filters", 10**9, "has filters 1000000000"),
        ("dense", "units", 10**9, "has units 1000000000"),
        ("dense", "units", 255, "has a kernel of shape (7512, 256), not (7512, 255)"),
        ("dense", "use_bias", False, "has use_bias False, not True"),
        ("aux_fullspec", "units", 3, "aux_fullspec has a kernel of shape (96, 3), which does not"),
        ("activation", "activation", "tanh", "has activation 'tanh', not 'relu'"),
        ("k_dense_2", "activation", "elu", "has activation 'elu', not 'relu'"),
        ("max_pooling1d", "pool_size", [2], "has pool_size [2], not [4]"),
        ("max_pooling1d", "strides", [2], "has strides [2], not [4]"),
        ("concatenate_1", "axis", 0, "has axis 0, not -1"),
        ("input", "batch_input_shape", [None, 8575, 1], "reads input of shape (8575,)"),
        ("input", "batch_input_shape", [None, 7514, 2], "reads input of shape (15028,)"),
    ],
)
def test_a_layer_with_other_settings_is_named(
    folder: KerasFolder, layer: str, key: str, value: Any, said: str
) -> None:
    folder.edit_layers(change(layer, key, value))
    text = folder.refusal()
    assert said in text
    assert layer in text or layer == "input"


def without(step: str, after: str) -> Edit:
    """The graph without a layer, whose readers read what it read."""

    def edit(layers: Layers) -> None:
        assert inputs(layers[step]) == [after]
        rewire(layers, step, after)
        del layers[step]

    return edit


@pytest.mark.parametrize(
    ("step", "after", "said"),
    [
        ("activation_1", "conv1d_1", "layer dense reads conv1d_1 > pool > dropout, not one Conv1D"),
        ("MCDropout_41", "activation_2", "layer dense_1 reads dense > relu, not one Dense layer"),
        ("MCDropout_6", "mg_dense", "layer mg_dense_2 reads mg_dense > relu, not one Dense"),
    ],
)
def test_a_step_that_is_left_out_is_named(
    folder: KerasFolder, step: str, after: str, said: str
) -> None:
    folder.edit_layers(without(step, after))
    assert said in folder.refusal()


@pytest.mark.parametrize("how_many", ["one", "all"])
def test_an_older_network_without_the_elements_second_dropout_is_recognised(
    folder: KerasFolder, how_many: str
) -> None:
    def remove(layers: Layers) -> None:
        for dense in [name for name in layers if name.endswith("_dense_2")]:
            (dropout,) = [k for k, v in layers.items() if v["inbound_nodes"] and dense in inputs(v)]
            if how_many == "all" or dense == "c_dense_2":
                without(dropout, dense)(layers)

    folder.edit_layers(remove)
    assert "an older network, without dropout between c_dense_2 and c_concat" in folder.refusal()


def test_dropout_that_only_the_variance_lacks_is_recognised(folder: KerasFolder) -> None:
    def remove(layers: Layers) -> None:
        joined = layers[inputs(layers["c_concat_var"])[0]]
        set_inputs(joined, ["c_dense_2", inputs(joined)[1]])

    folder.edit_layers(remove)
    assert "without dropout between c_dense_2 and c_concat_var" in folder.refusal()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (  # Teff's name is that of nickel's head
            lambda layers: set_inputs(layers["output"], inputs(layers["output"])[::-1]),
            "layer ni_concat reads ni_dense_2 > relu > dropout, aux_fullspec, dense_2, dense_3",
        ),
        (
            lambda layers: set_inputs(layers["output"], inputs(layers["output"])[:-1]),
            "layer output does not join 22 labels",
        ),
        (  # two elements are swapped
            lambda layers: rewire(layers, "Mg_Mask", "Al_Mask"),
            "layer mg_concat gives mg_h from Al_Mask",
        ),
        (
            lambda layers: set_inputs(layers["concatenate_1"], ["aux_fullspec", "dense_2"]),
            "layer c_concat reads c_dense_2 > relu > dropout, aux_fullspec, dense_2",
        ),
        (
            lambda layers: set_inputs(layers["dense_5"], ["activation_2"]),
            "the heads of Teff, log g and [Fe/H] read dense, dense_1, not the same layer",
        ),
    ],
    ids=["reversed output", "21 labels", "other window", "joint", "other layer"],
)
def test_other_connections_are_refused(folder: KerasFolder, edit: Edit, said: str) -> None:
    folder.edit_layers(edit)
    assert said in folder.refusal()


@pytest.mark.parametrize("pixels", [7514, 7515])
def test_convolutions_that_read_another_spectrum_than_the_windows_are_refused(
    folder: KerasFolder, pixels: int
) -> None:
    def add(layers: Layers) -> None:
        layers["input_2"] = json.loads(json.dumps(layers["input"]).replace("input", "input_2"))
        layers["input_2"]["config"]["batch_input_shape"] = [None, pixels, 1]
        layers["input_2"]["class_name"] = "InputLayer"
        set_inputs(layers["conv1d"], ["input_2"])

    folder.edit_layers(add)
    with folder.h5 as file:
        file["model_weights"].create_group("input_2")
    assert "C_Mask reads input, but conv1d reads input_2" in folder.refusal()


def test_a_window_without_a_name_is_refused(folder: KerasFolder) -> None:
    def rename(layers: Layers) -> None:
        layers["P_Mask"]["name"] = "bool_mask_9"
        rewire(layers, "P_Mask", "bool_mask_9")

    folder.edit_layers(rename)
    assert "layer bool_mask_9 does not tell which element's window" in folder.refusal()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((64, 1), "f4"), "has a kernel of shape (64, 1), not (96, 1)"),
        (np.zeros((96, 1), "i4"), "has a kernel of int32, not of float32"),
        (np.full((96, 1), np.nan, "f4"), "has a kernel with values that are not finite"),
        (np.full((96, 1), 1e39, "f8"), "has a kernel with values that are not finite"),
    ],
    ids=["shape", "integers", "nan", "too large"],
)
def test_weights_that_cannot_be_are_named(
    folder: KerasFolder, value: np.ndarray[Any, Any], said: str
) -> None:
    with folder.h5 as file:
        del file["model_weights/dense_3/dense_3/kernel:0"]
        file["model_weights/dense_3/dense_3/kernel:0"] = value
    assert f"layer dense_3 {said}" in folder.refusal()


# --- Parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("id", "ApogeeBCNN", "its id is not ApogeeBCNNCensored"),
        ("dropout_rate", 0.1, "its dropout_rate is not 0.3"),
        ("dropout_rate", "0.3", "its dropout_rate is not 0.3"),
        ("input_std", {"input": [2.0]}, "its input_std is not 1"),
        ("input_std", "one", "its input_std is not 1"),
        ("input_mean", {"input": [1.0] * 8575}, "input_mean does not have 7514 finite numbers"),
        ("input_mean", {"spectrum": [1.0] * 7514}, "input_mean does not have 7514 finite"),
        ("input_mean", {"input": ["one"] * 7514}, "input_mean is not a list of numbers"),
        ("labels_mean", None, "labels_mean does not have 22 finite numbers"),
        ("labels_mean", [10**400] * 22, "labels_mean is not a list of numbers"),
        ("labels_std", [float("nan")] * 22, "labels_std does not have 22 finite numbers"),
        ("labels_std", [0.0] * 22, "labels_std has values that are not 1e-06 to 100000"),
        ("targetname", ["teff"] * 22, "targetname has the label teff 22 times"),
        ("targetname", ["teff", "M"], "'M' in targetname is an unknown label"),
        ("targetname", "teff", "targetname is not a list of names"),
    ],
)
def test_parameters_that_cannot_be_used_are_named(
    folder: KerasFolder, key: str, value: Any, said: str
) -> None:
    folder.edit_json(lambda content: content.update({key: value}))
    assert said in folder.refusal()


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1, 2]", "[" * 100_000, '{"id": "\xff'], ids=lambda text: text[:9]
)
def test_parameters_that_are_no_json_are_refused(folder: KerasFolder, text: str) -> None:
    (folder.path / JSON).write_bytes(text.encode("latin-1"))
    assert "it is not" in folder.refusal()

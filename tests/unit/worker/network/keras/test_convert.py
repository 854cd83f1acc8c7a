from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import shared
from tests.inputs.keras_folders import (
    KerasFolder,
    Layers,
    inputs,
    keras_folder,
    peer_folder,
    rewire,
    set_inputs,
)
from tests.inputs.keras_written import DR16, DR17, JSON
from worker.labels import ELEMENT_POSITIONS, LABELS
from worker.network.engines.choose import open_engine
from worker.network.keras.convert import Converted, convert, git_blob_sha1
from worker.network.keras.graph import label_position
from worker.network.model import ApogeeBCNNCensored
from worker.spectra.windows import element_window
from worker.version import __version__

Reference = dict[str, NDArray[np.generic]]

#: As in test_model: 1e-5 relative, and 1e-6 of the labels' scatter for those near zero.
RTOL = 1e-5
ATOL_IN_SCATTERS = 1e-6

both = pytest.mark.parametrize("name", [DR17, DR16])


@pytest.fixture(scope="module")
def converted() -> dict[str, Converted]:
    return {name: convert(keras_folder(name)) for name in (DR17, DR16)}


@pytest.fixture(scope="module")
def peers() -> dict[str, Converted]:
    return {name: convert(peer_folder(name)) for name in (DR17, DR16)}


@pytest.fixture(scope="module")
def all_references() -> Reference:
    """Outputs of astroNN's own code for both folders, and statistics of 1000 random passes."""
    with np.load(shared("peer_models", "reference_keras.npz")) as arrays:
        return dict(arrays)


def reference_of(name: str, references: Reference) -> Reference:
    prefix = name.split("_")[1] + "_"
    own = {k.removeprefix(prefix): v for k, v in references.items() if k.startswith(prefix)}
    return own | {"spectra": references["spectra"]}


def assert_same_network(model: ApogeeBCNNCensored, other: ApogeeBCNNCensored) -> None:
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=0)


# --- Against astroNN's own code ------------------------------------------------------------


@both
def test_deterministic_outputs_equal_astronns(
    name: str, peers: dict[str, Converted], all_references: Reference
) -> None:
    model, reference = peers[name].model, reference_of(name, all_references)
    with torch.inference_mode():
        spectra = model.normalise_input(torch.from_numpy(reference["spectra"]))
        np.testing.assert_array_equal(spectra.numpy(), reference["normalised_input"])
        outputs = dict(zip(("det_mean_norm", "det_logvar_norm"), model(spectra), strict=True))
    for key, values in outputs.items():
        expected = reference[key]
        assert expected.std(axis=0).min() > 1e-3  # spectra differ: constants would not pass
        np.testing.assert_allclose(values.numpy(), expected, rtol=RTOL, atol=ATOL_IN_SCATTERS)


@both
def test_deterministic_labels_in_their_units_equal_astronns(
    name: str, peers: dict[str, Converted], all_references: Reference
) -> None:
    model, reference = peers[name].model, reference_of(name, all_references)
    with torch.inference_mode():
        labels, log_variances = model(model.normalise_input(torch.from_numpy(reference["spectra"])))
    scatter = reference["labels_std"]
    values = (labels.double() * model.labels_std + model.labels_mean).numpy()
    tolerance = RTOL * np.abs(reference["det_mean"]) + ATOL_IN_SCATTERS * scatter
    assert (np.abs(values - reference["det_mean"]) <= tolerance).all()
    stds = np.exp(0.5 * log_variances.double().numpy()) * scatter
    np.testing.assert_allclose(stds, reference["det_predictive_std"], rtol=RTOL)


@both
def test_normalisation_equals_astronns(
    name: str, peers: dict[str, Converted], all_references: Reference
) -> None:
    reference = reference_of(name, all_references)
    for key in ("input_mean", "labels_mean", "labels_std"):
        np.testing.assert_array_equal(getattr(peers[name].model, key).numpy(), reference[key])


@both
def test_statistics_agree_with_1000_passes_of_astronns_code(
    name: str, peers: dict[str, Converted], all_references: Reference
) -> None:
    passes, reference = 200, reference_of(name, all_references)
    their_passes = int(reference["mc_num"])
    assert their_passes == 1000
    engine = open_engine(peers[name].model, mc_samples=passes, seed=20240607)
    labels, e_labels = engine(reference["spectra"], [f"star {n}" for n in range(16)])
    # Their model variance is the biased one, over N; ours is over N - 1.
    variance = reference["mc_model"] ** 2 * their_passes / (their_passes - 1)
    z = (labels - reference["mc_mean"]) / np.sqrt(variance * (1 / passes + 1 / their_passes))
    # 16 x 22 = 352 scores; labels share the full-spectrum branch and so correlate. If they
    # made but 22 independent ones, the mean of z^2 would scatter by sqrt(2 / 22) = 0.3 around
    # one; about two of those scatters are allowed, and 4.5 standard deviations for the worst.
    assert 0.6 < (z**2).mean() < 1.6
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) < 0.5
    # An uncertainty of 200 passes has a relative error of at most 1/sqrt(400) = 5 %, theirs of
    # 2.2 %, together 5.5 %: 4 of them for the worst of 352, and 352 of them average out.
    ratio = e_labels / np.sqrt(variance + reference["mc_predictive"] ** 2)
    assert np.abs(ratio - 1).max() < 0.22
    assert abs(ratio.mean() - 1) < 0.015


Graph = dict[str, tuple[str, list[str], dict[str, Any]]]


def network_of(folder: Path) -> tuple[Graph, dict[str, tuple[int, ...] | None]]:
    """The layers of a folder's graph by name, and the shapes of what its file holds."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    with h5py.File(folder / "model_weights.h5") as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        file["model_weights"].visititems(
            lambda name, held: shapes.setdefault(name, getattr(held, "shape", None))
        )
    of_training = ("izer", "constraint")
    graph = {
        layer["name"]: (
            layer["class_name"],
            inputs(layer) if layer["inbound_nodes"] else [],
            {k: v for k, v in layer["config"].items() if not k.endswith(of_training)},
        )
        for layer in layers
    }
    shapes.pop("top_level_model_weights", None)
    return graph, shapes


@both
def test_the_folders_of_the_tests_are_as_astronns_own_code_writes_them(name: str) -> None:
    ours, theirs = keras_folder(name), peer_folder(name)
    assert network_of(ours) == network_of(theirs)
    parameters, their_parameters = (
        json.loads((folder / JSON).read_text()) for folder in (ours, theirs)
    )
    assert parameters["targetname"] == their_parameters["targetname"]
    for key, value in parameters.items():
        assert type(value) is type(their_parameters[key]), key
        assert np.shape(value) == np.shape(their_parameters[key]), key


# --- What is taken from where --------------------------------------------------------------


@both
def test_windows_are_the_aspcap_windows(name: str, converted: dict[str, Converted]) -> None:
    for element, position in enumerate(ELEMENT_POSITIONS):
        wanted = np.flatnonzero(element_window(str(LABELS[position].element)))
        np.testing.assert_array_equal(converted[name].model.window(element).numpy(), wanted)


@both
@pytest.mark.parametrize(
    ("output", "layer"),
    [("output", "dense_teffloggfeh"), ("variance_output", "dense_teffloggfeh_var")],
)
def test_the_heads_of_the_full_branch_are_those_that_the_outputs_join(
    name: str, output: str, layer: str, converted: dict[str, Converted]
) -> None:
    with h5py.File(keras_folder(name) / "model_weights.h5") as file:
        layers = {
            each["name"]: each
            for each in json.loads(file.attrs["model_config"])["config"]["layers"]
        }
        for row, position in enumerate((0, 1, 19)):
            head = inputs(layers[output])[position]
            kernel = file[f"model_weights/{head}/{head}/kernel:0"][:, 0]
            weight = getattr(converted[name].model, layer).weight[row]
            np.testing.assert_array_equal(weight.numpy(), kernel)


@both
def test_metadata_tell_where_the_weights_come_from(
    name: str, converted: dict[str, Converted]
) -> None:
    content = (keras_folder(name) / "model_weights.h5").read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    assert converted[name].metadata == {
        "format": 1,
        "origin": "astroNN Keras folder",
        "folder": name,
        "astronn_version": {DR17: "1.1.dev0", DR16: "1.0.0"}[name],
        "keras_version": {DR17: "2.5.0", DR16: "2.2.0"}[name],
        "training_spectra": 44,
        "model_weights_sha256": hashlib.sha256(content).hexdigest(),
        "model_weights_git_blob_sha1": blob.hexdigest(),
        "software_version": __version__,
    }


def test_files_are_called_as_git_calls_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert git_blob_sha1(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_without_notes_the_weights_are_converted_all_the_same(
    tmp_path: Path, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path)
    (folder.path / "hyperparameter.txt").unlink()
    found = convert(folder.path)
    assert_same_network(found.model, converted[DR17].model)
    assert found.metadata["keras_version"] == "2.5.0"  # as the h5 file tells
    assert "training_spectra" not in found.metadata


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        *(("teff", "teff"), ("logg", "logg"), ("C", "c_h"), ("[C/H]", "c_h"), ("C1", "c_1_h")),
        *(("[CI/H]", "c_1_h"), ("Ti2", "ti_2_h"), ("[TiII/H]", "ti_2_h"), ("TiII", "ti_2_h")),
        *(("Ti", "ti_h"), ("Fe", "fe_h"), ("[Fe/H]", "fe_h"), ("Co", "co_h"), ("[Ni/H]", "ni_h")),
    ],
)
def test_labels_are_known_by_the_names_of_both_eras(theirs: str, ours: str) -> None:
    position = label_position(theirs)
    assert position is not None
    assert LABELS[position].name == ours


@pytest.mark.parametrize("name", ["M", "alpha", "fakemag", "", "[/H]", "Y"])
def test_other_names_are_no_labels(name: str) -> None:
    assert label_position(name) is None


# --- The same network in another guise -----------------------------------------------------


def other_number(name: str) -> str:
    """An automatic name of Keras with another number; names that say something stay."""
    pattern = (
        r"(conv1d|dense|activation|flatten|max_pooling1d|concatenate|MCDropout|StopGrad)(?:_(\d+))?"
    )
    if found := re.fullmatch(pattern, name):
        return f"{found[1]}_{211 - int(found[2] or 0)}"
    return name


def renumber(layers: Layers) -> Layers:
    """Other numbers for all automatic names, and the layers in the opposite order."""
    for layer in layers.values():
        layer["name"] = layer["config"]["name"] = other_number(layer["name"])
        if layer["inbound_nodes"]:
            set_inputs(layer, [other_number(each) for each in inputs(layer)])
    return dict(reversed(layers.items()))


@both
def test_neither_numbers_nor_order_of_the_layers_matter(
    tmp_path: Path, name: str, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path, name)
    folder.edit_layers(renumber)
    with folder.h5 as file:
        group = file["model_weights"]
        for old in list(group):
            group.move(old, f"new {old}")  # no name is taken while others move
        for old in list(group):
            group.move(old, other_number(old.removeprefix("new ")))
        assert {"conv1d_210", "dense_209"} < set(group)
    assert_same_network(convert(folder.path).model, converted[name].model)


@pytest.mark.parametrize("head", ["c_concat", "ti2_concat_var"])
def test_the_order_of_what_a_head_joins_is_read_from_the_graph(
    tmp_path: Path, head: str, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path)

    def swap(layers: Layers) -> None:
        joined = layers[inputs(layers[head])[0]]
        set_inputs(joined, inputs(joined)[::-1])

    folder.edit_layers(swap)
    with folder.h5 as file:
        kernel = file[f"model_weights/{head}/{head}/kernel:0"]
        kernel[:] = np.concatenate([kernel[-5:], kernel[:-5]])
    assert_same_network(convert(folder.path).model, converted[DR17].model)


def test_the_order_of_the_full_branchs_labels_is_read_from_the_graph(
    tmp_path: Path, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path)

    def shuffle(layers: Layers) -> None:
        # (aux, aux, Teff, log g, Fe) becomes (Fe, log g, Teff, aux, aux).
        set_inputs(layers["concatenate"], inputs(layers["concatenate"])[::-1])
        set_inputs(layers["concatenate_1"], inputs(layers["concatenate_1"])[::-1])

    folder.edit_layers(shuffle)
    with folder.h5 as file:
        for head in [name for name in file["model_weights"] if "_concat" in name]:
            kernel = file[f"model_weights/{head}/{head}/kernel:0"]
            rows = list(range(len(kernel) - 5)) + [len(kernel) + i for i in (-1, -2, -3, -5, -4)]
            kernel[:] = kernel[:][rows]
    assert_same_network(convert(folder.path).model, converted[DR17].model)


def test_labels_in_another_order_are_brought_into_ours(
    tmp_path: Path, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path)
    order = [19, *range(19), 21, 20]  # Fe first, Ni before Co

    def shuffle(layers: Layers) -> None:
        for output in ("output", "variance_output"):
            set_inputs(layers[output], [inputs(layers[output])[i] for i in order])

    def shuffle_names(content: dict[str, Any]) -> None:
        content["targetname"] = [content["targetname"][i] for i in order]
        for key in ("labels_mean", "labels_std"):
            content[key]["output"] = [content[key]["output"][i] for i in order]

    folder.edit_layers(shuffle)
    folder.edit_json(shuffle_names)
    assert_same_network(convert(folder.path).model, converted[DR17].model)


def test_activations_may_be_layers_or_belong_to_layers(
    tmp_path: Path, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path)

    def merge(layers: Layers) -> None:
        for activation, weighted in (("activation", "conv1d"), ("activation_3", "dense_1")):
            assert inputs(layers[activation]) == [weighted]
            layers[weighted]["config"]["activation"] = "relu"
            rewire(layers, activation, weighted)
            del layers[activation]

    folder.edit_layers(merge)
    with folder.h5 as file:
        del file["model_weights/activation"], file["model_weights/activation_3"]
    assert_same_network(convert(folder.path).model, converted[DR17].model)


def test_texts_may_be_bytes(tmp_path: Path, converted: dict[str, Converted]) -> None:
    folder = KerasFolder(tmp_path, DR16)

    def needed(config: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in config.items() if not k.endswith(("izer", "constraint"))}

    with folder.h5 as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            layer["config"] = needed(layer["config"])
        # Shorter, since an attribute of fixed length has at most 64 KiB.
        text = json.dumps(config, separators=(",", ":")).encode()
        file.attrs["model_config"] = np.bytes_(text)
        file.attrs["keras_version"] = np.bytes_(b"2.2.0")
        assert isinstance(file.attrs["model_config"], bytes)
        for group in file["model_weights"].values():
            group.attrs["weight_names"] = [each.encode() for each in group.attrs["weight_names"]]
    found = convert(folder.path)
    assert_same_network(found.model, converted[DR16].model)
    assert found.metadata["keras_version"] == "2.2.0"


@both
def test_parameters_may_be_flat_or_nested(
    tmp_path: Path, name: str, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path, name)

    def turn(content: dict[str, Any]) -> None:
        for key, of in (
            *(("input_mean", "input"), ("input_std", "input")),
            *(("labels_mean", "output"), ("labels_std", "output")),
        ):
            content[key] = content[key][of] if name == DR17 else {of: content[key], "other": [0]}

    folder.edit_json(turn)
    assert_same_network(convert(folder.path).model, converted[name].model)


def test_other_types_of_float_in_the_file_are_read(
    tmp_path: Path, converted: dict[str, Converted]
) -> None:
    folder = KerasFolder(tmp_path)
    with folder.h5 as file:
        for layer, dtype in (("na_dense", "f8"), ("mg_dense", ">f4")):
            path = f"model_weights/{layer}/{layer}/kernel:0"
            values = file[path][:].astype(dtype)
            del file[path]
            file[path] = values
    assert_same_network(convert(folder.path).model, converted[DR17].model)

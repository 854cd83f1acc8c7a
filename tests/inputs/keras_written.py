"""Writes astroNN model folders from scratch, in the layouts of the peers' DR17 and DR16 ones.

The graph is what astroNN's ApogeeBCNNCensored (Leung & Bovy 2019) gives Keras 2; the weights are
random numbers. ``test_keras`` compares both layouts with files that astroNN's own code wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from worker.labels import LABELS
from worker.spectra.pixels import N_PIXELS
from worker.spectra.windows import element_window

DR17, DR16 = "keras_dr17_dev0", "keras_dr16_style"
JSON = "astroNN_model_parameter.json"
#: The names of the elements' branches, in the order of astroNN.
ELEMENTS = (
    *("C", "C1", "N", "O", "Na", "Mg", "Al", "Si", "P", "S"),
    *("K", "Ca", "Ti", "Ti2", "V", "Cr", "Mn", "Co", "Ni"),
)
#: Layers that Keras numbers by itself: from 0, which is left out, or, in older versions, from 1.
_NUMBERED = r"(conv1d|dense|activation|flatten|max_pooling1d|concatenate)(?:_(\d+))?"
_HIDDEN = {DR17: (256, 96), DR16: (192, 64)}
_VERSIONS = {DR17: ("1.1.dev0", "2.5.0"), DR16: ("1.0.0", "2.2.0")}

_ALL: dict[str, Any] = {"trainable": True, "dtype": "float32"}
_LAST: dict[str, Any] = {"data_format": "channels_last"}
_WEIGHTED: dict[str, Any] = {
    "use_bias": True,
    "kernel_initializer": {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.05}},
    "bias_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": None,
    "kernel_constraint": None,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "InputLayer": {"dtype": "float32", "sparse": False, "ragged": False},
    "Conv1D": _ALL
    | _LAST
    | _WEIGHTED
    | {
        "kernel_size": [8],
        "strides": [1],
        "padding": "same",
        "dilation_rate": [1],
        "groups": 1,
        "activation": "linear",
    },
    "Activation": {**_ALL, "activation": "relu"},
    "MCDropout": {**_ALL, "rate": 0.3, "noise_shape": None},
    "MaxPooling1D": {**_ALL, **_LAST, "strides": [4], "pool_size": [4], "padding": "valid"},
    "Flatten": {**_ALL, **_LAST},
    "Dense": {**_ALL, **_WEIGHTED, "activation": "linear"},
    "BoolMask": {**_ALL, "None": None},
    "StopGrad": {**_ALL, "None": None},
    "Concatenate": {**_ALL, "axis": -1},
}


class Written(NamedTuple):
    """A layer as it is written, with the shape of its kernel if it has one."""

    name: str
    kind: str
    inputs: Sequence[str]
    kernel: tuple[int, ...] = ()
    config: dict[str, Any] = {}  # noqa: RUF012 - it is not changed


def write_keras_folder(target: Path, name: str) -> Path:
    """Write a folder of this name and layout into ``target``, the same at each call."""
    folder = target / name
    folder.mkdir()
    (folder / JSON).write_text(json.dumps(_parameters(name)))
    astronn, keras = _VERSIONS[name]
    (folder / "hyperparameter.txt").write_text(
        f"Model: Bayesian Convolutional Neural Network \nastroNN Version: {astronn} \n"
        f"Keras Version: {keras} \nNumber of Training Data: 44 \n"
    )
    layers = _layers(name)
    with h5py.File(folder / "model_weights.h5", "w") as file:
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = keras
        file.attrs["model_config"] = json.dumps(_model_config(layers))
        for layer, arrays in zip(layers, _weights(name), strict=True):
            group = file.create_group(f"model_weights/{layer.name}")
            names = [f"{layer.name}/{key}:0" for key in arrays]
            group.attrs.create("weight_names", names, dtype=h5py.string_dtype())
            for weight, array in zip(names, arrays.values(), strict=True):
                group[weight] = array
    return folder


def _model_config(layers: Sequence[Written]) -> dict[str, Any]:
    described = [
        {
            "class_name": kind,
            "config": {"name": name, **_CONFIGS[kind], **config},
            "name": name,
            "inbound_nodes": [[[each, 0, 0, {}] for each in inputs]] if inputs else [],
        }
        for name, kind, inputs, _, config in layers
    ]
    ends = {"input_layers": ["input", "labels_err"], "output_layers": ["output", "variance_output"]}
    places = {key: [[name, 0, 0] for name in names] for key, names in ends.items()}
    return {"class_name": "Functional", "config": {"name": "model", "layers": described, **places}}


@cache
def _weights(name: str) -> list[dict[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(len(name))
    return [
        {
            key: (rng.normal(size=shape) * 0.05).astype(np.float32)
            for key, shape in (("kernel", kernel), ("bias", kernel[-1:]))
            if shape
        }
        for *_, kernel, _ in _layers(name)
    ]


@cache
def _layers(name: str) -> list[Written]:
    layers = [*_full_branch(*_HIDDEN[name])]
    for number in range(len(ELEMENTS)):
        layers += _element_branch(number)
    for output, first, ending in (("output", 2, ""), ("variance_output", 5, "_var")):
        heads = [f"{each.lower()}_concat{ending}" for each in ELEMENTS]
        teff, logg, fe = (f"dense_{first + n}" for n in range(3))
        layers.append(Written(output, "Concatenate", [teff, logg, *heads[:17], fe, *heads[17:]]))
    return layers if name == DR17 else [_as_in_2018(layer) for layer in layers]


def _full_branch(first: int, second: int) -> Iterator[Written]:
    yield Written("input", "InputLayer", [], config={"batch_input_shape": [None, N_PIXELS, 1]})
    yield Written("labels_err", "InputLayer", [], config={"batch_input_shape": [None, 22]})
    yield Written("flatten", "Flatten", ["input"])
    yield Written("conv1d", "Conv1D", ["input"], (8, 1, 2), {"filters": 2})
    yield Written("activation", "Activation", ["conv1d"])
    yield Written("MCDropout_39", "MCDropout", ["activation"])
    yield Written("conv1d_1", "Conv1D", ["MCDropout_39"], (8, 2, 4), {"filters": 4})
    yield Written("activation_1", "Activation", ["conv1d_1"])
    yield Written("max_pooling1d", "MaxPooling1D", ["activation_1"])
    yield Written("flatten_1", "Flatten", ["max_pooling1d"])
    yield Written("MCDropout_40", "MCDropout", ["flatten_1"])
    yield _dense("dense", "MCDropout_40", N_PIXELS // 4 * 4, first)
    yield Written("activation_2", "Activation", ["dense"])
    yield Written("MCDropout_41", "MCDropout", ["activation_2"])
    yield _dense("dense_1", "MCDropout_41", first, second)
    yield Written("activation_3", "Activation", ["dense_1"])
    for number in range(2, 8):
        yield _dense(f"dense_{number}", "activation_3", second, 1)
    yield _dense("aux_fullspec", "activation_3", second, 2)
    yield Written("concatenate", "Concatenate", ["dense_2", "dense_3", "dense_4"])
    yield Written("StopGrad_1", "StopGrad", ["concatenate"])
    yield Written("concatenate_1", "Concatenate", ["aux_fullspec", "StopGrad_1"])


def _element_branch(number: int) -> Iterator[Written]:
    element = ELEMENTS[number]
    lower, pixels = element.lower(), int(element_window(_symbol(element)).sum())
    first, second = (256, 64) if pixels > 3000 else (32, 16)
    relu = {"activation": "relu"}
    yield Written(f"{element}_Mask", "BoolMask", ["flatten"])
    yield _dense(f"{lower}_dense", f"{element}_Mask", pixels, first, **relu)
    yield Written(f"MCDropout_{number + 1}", "MCDropout", [f"{lower}_dense"])
    yield _dense(f"{lower}_dense_2", f"MCDropout_{number + 1}", first, second, **relu)
    yield Written(f"MCDropout_{number + 20}", "MCDropout", [f"{lower}_dense_2"])
    for joined, head in ((number + 2, f"{lower}_concat"), (number + 21, f"{lower}_concat_var")):
        both = [f"MCDropout_{number + 20}", "concatenate_1"]
        yield Written(f"concatenate_{joined}", "Concatenate", both)
        yield _dense(head, f"concatenate_{joined}", second + 5, 1)


def _symbol(element: str) -> str:
    return {"Ti2": "TiII"}.get(element, element)


def _dense(name: str, reads: str, inputs: int, units: int, **config: str) -> Written:
    return Written(name, "Dense", [reads], (inputs, units), {"units": units, **config})


def _as_in_2018(layer: Written) -> Written:
    config = dict(layer.config)
    if layer.name in ("dense", "dense_1"):
        config["activation"] = "relu"
    return layer._replace(
        name=_from_one(layer.name), inputs=[*map(_from_one, layer.inputs)], config=config
    )


def _from_one(name: str) -> str:
    found = re.fullmatch(_NUMBERED, name)
    return name if found is None else f"{found[1]}_{int(found[2] or 0) + 1}"


def _parameters(name: str) -> dict[str, Any]:
    rng = np.random.default_rng([len(name), 1])
    mean = rng.uniform(0.85, 1.05, N_PIXELS).tolist()
    labels_mean = [4500.0, 2.2, *rng.normal(0, 0.2, len(LABELS) - 2)]
    labels_std = [500.0, 0.7, *rng.uniform(0.2, 0.4, len(LABELS) - 2)]
    content: dict[str, Any] = {"id": "ApogeeBCNNCensored", "dropout_rate": 0.3}
    elements = [*ELEMENTS[:17], "Fe", *ELEMENTS[17:]]
    if name == DR16:
        names = [f"[{ {'C1': 'CI', 'Ti2': 'TiII'}.get(each, each) }/H]" for each in elements]
        return content | {
            "input_mean": mean,
            "input_std": [1.0],
            "input_norm_mode": 3,
            "labels_norm_mode": 2,
            "labels_mean": labels_mean,
            "labels_std": labels_std,
            "targetname": ["teff", "logg", *names],
        }
    return content | {
        "input_mean": {"input": mean, "input_err": mean, "labels_err": [0.0] * 22},
        "input_std": {"input": [1.0], "input_err": [1.0], "labels_err": [1.0]},
        "input_norm_mode": dict.fromkeys(("input", "input_err", "labels_err"), "3"),
        "labels_norm_mode": dict.fromkeys(("output", "variance_output"), "2"),
        "labels_mean": dict.fromkeys(("output", "variance_output"), labels_mean),
        "labels_std": dict.fromkeys(("output", "variance_output"), labels_std),
        "targetname": ["teff", "logg", *elements],
    }

"""Converting an astroNN model folder without TensorFlow and Keras.

A folder holds ``model_weights.h5``, a whole Keras model with its graph, and
``astroNN_model_parameter.json``. The file's layers are matched to ours by what they read
(:mod:`worker.network.keras.parts`). The masks of the element branches are not in the file: they
are the ASPCAP windows, which astroNN carries.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.errors import FatalError, UsageError
from worker.identity import weights_sha256
from worker.labels import ELEMENT_POSITIONS, LABELS
from worker.network.checkpoint import Metadata
from worker.network.keras.file import WEIGHTS, Weights, read_config, read_weights, weight_shapes
from worker.network.keras.graph import Graph, LayerError, read_graph
from worker.network.keras.parameters import PARAMETERS, Parameters, read_notes, read_parameters
from worker.network.keras.parts import Part, find_parts
from worker.network.model import ApogeeBCNNCensored, Architecture
from worker.spectra.windows import element_window
from worker.version import __version__

State = dict[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """A network from an astroNN folder, and where it comes from."""

    model: ApogeeBCNNCensored
    metadata: Metadata


def convert(folder: Path) -> Converted:
    """The network of an astroNN folder, ready for inference on the CPU.

    Its deterministic outputs are those of astroNN's own class (Leung & Bovy 2019, MNRAS 483,
    3255), whose layout of kernels is transposed for PyTorch.

    Raises
    ------
    UsageError
        There is no such folder, or it is no astroNN folder.
    FatalError
        Its network is not ApogeeBCNNCensored, or its files are damaged; the text names the
        layer. Refused are also older networks without dropout behind the elements' second
        layers; :func:`worker.network.keras.parts.find_parts` says why.
    """
    check_folder(folder)
    folder = folder.resolve()  # "." has no name
    parameters = read_parameters(folder)
    path = folder / WEIGHTS
    try:
        config, keras_version = read_config(path)
        graph = read_graph(config)
        parts = find_parts(graph, parameters.positions)
        model = ApogeeBCNNCensored(_architecture(parts))
        _check_shapes(graph, parts, model)
        weights = read_weights(path, graph)
    except LayerError as error:
        raise FatalError(f"{folder.name}/{WEIGHTS} cannot be converted: {error}.") from error
    model.load_state_dict(_layers(parts, weights) | _windows() | _scales(parameters))
    metadata: Metadata = {
        "format": 1,
        "origin": "astroNN Keras folder",
        "folder": folder.name,
        **read_notes(folder),
        "keras_version": keras_version,
        "model_weights_sha256": weights_sha256(path),
        "model_weights_git_blob_sha1": git_blob_sha1(path),
        "software_version": __version__,
    }
    return Converted(model.eval().requires_grad_(False), metadata)


def check_folder(folder: Path) -> None:
    """Refuse what is not an astroNN folder.

    Raises
    ------
    UsageError
        There is no such folder, or one of its two files is missing.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder.")
    for name in (WEIGHTS, PARAMETERS):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is not an astroNN model folder: it has no {name}.")


def git_blob_sha1(path: Path) -> str:
    """The name under which git knows the content of a file.

    Raises
    ------
    FatalError
        The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FatalError(f"{path} cannot be read: {error.strerror}.") from error
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _architecture(parts: dict[str, Part]) -> Architecture:
    def width(name: str) -> int:
        return len(parts[name].units)

    elements = range(len(ELEMENT_POSITIONS))
    return Architecture(
        dense=(width("dense_1"), width("dense_2")),
        windows=tuple(len(window) for window in _windows().values()),
        element1=tuple(width(f"elem_dense1.{i}") for i in elements),
        element2=tuple(width(f"elem_dense2.{i}") for i in elements),
    )


def _check_shapes(graph: Graph, parts: dict[str, Part], model: ApogeeBCNNCensored) -> None:
    """Refuse layers of another shape than ours, before anything is read."""
    for name, part in parts.items():
        wanted = model.get_parameter(f"{name}.weight").shape
        for layer in part.layers:
            kernel = weight_shapes(graph, layer)["kernel"]
            if (len(part.units), *reversed(kernel[:-1])) != wanted:
                raise LayerError(
                    f"layer {layer} has a kernel of shape {kernel}, which does not fit {name} of "
                    f"shape {tuple(wanted)}"
                )


def _layers(parts: dict[str, Part], weights: dict[str, Weights]) -> State:
    """The weights in our layout: outputs first, then inputs, then the width of a kernel."""
    state: State = {}
    for name, part in parts.items():
        kernel = np.stack([weights[layer]["kernel"][..., unit].T for layer, unit in part.units])
        bias = np.stack([weights[layer]["bias"][unit] for layer, unit in part.units])
        ordered = kernel if part.rows is None else kernel[:, list(part.rows)]
        state[f"{name}.weight"] = torch.from_numpy(ordered)
        state[f"{name}.bias"] = torch.from_numpy(bias)
    return state


def _windows() -> State:
    elements = [LABELS[position].element for position in ELEMENT_POSITIONS]
    return {
        f"window_{i}": torch.from_numpy(np.flatnonzero(element_window(element)))
        for i, element in enumerate(elements)
        if element is not None
    }


def _scales(parameters: Parameters) -> State:
    return {
        "input_mean": torch.from_numpy(parameters.input_mean),
        "labels_mean": torch.from_numpy(parameters.labels_mean),
        "labels_std": torch.from_numpy(parameters.labels_std),
    }

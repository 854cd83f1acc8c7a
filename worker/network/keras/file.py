"""Reading a Keras model's h5 file with h5py alone.

The file may be hostile: links that are not hard are not followed, data outside the file are not
read, groups may be nested to a bounded depth, and no array is read whose shape is not the one
that the graph foretells, or that is compressed: a piece may unpack to far more than its shape.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l
from numpy.typing import NDArray

from worker.errors import FatalError
from worker.network.keras.graph import WEIGHTED, Graph, LayerError

WEIGHTS = "model_weights.h5"

_LAYERS = "model_weights"
#: Where later versions of Keras 2 keep weights that belong to no layer; the network has none.
_NO_LAYER = "top_level_model_weights"
_DEEPEST = 4
_LONGEST_TEXT = 4 * 2**20
#: Ten times what there is, with what an optimiser keeps; the network has a hundred layers.
_LARGEST_FILE = 2**28
_MOST_MEMBERS = 1000

#: ``kernel`` and ``bias`` of a layer.
Weights = dict[str, NDArray[np.float32]]
Shape = tuple[int, ...]


def read_config(path: Path) -> tuple[str, str]:
    """The JSON text of the model's configuration, and the version of Keras that wrote it.

    Raises
    ------
    FatalError
        The file is not HDF5.
    LayerError
        It holds no configuration.
    """
    with _opened(path) as file:
        return _text(file, "model_config"), _text(file, "keras_version")


def read_weights(path: Path, graph: Graph) -> dict[str, Weights]:
    """The kernel and bias of every layer of the graph that has them, as float32.

    Raises
    ------
    FatalError
        The file is not HDF5.
    LayerError
        A layer is missing or unknown, or its weights are not what the graph foretells.
    """
    with _opened(path) as file:
        groups = _members(_members(file).get(_LAYERS))
        for name in graph.layers.keys() - groups.keys():
            raise LayerError(f"layer {name} is missing in {_LAYERS}")
        for name in groups.keys() - graph.layers.keys() - {_NO_LAYER}:
            raise LayerError(f"layer {reprlib.repr(name)} of {_LAYERS} is missing in the graph")
        weights = {
            name: _layer_weights(name, group, weight_shapes(graph, name))
            for name, group in groups.items()
        }
    return {name: arrays for name, arrays in weights.items() if arrays}


def weight_shapes(graph: Graph, name: str) -> dict[str, Shape]:
    """The shapes of a layer's weights in the layout of Keras; none for one without weights."""
    if name not in graph.layers or graph.layers[name].kind not in WEIGHTED:
        return {}
    layer, (made,) = graph.layers[name], graph.gives[name]
    inputs: Shape = (sum(signal.shape[-1] for signal in graph.reads[name]),)
    if layer.kind == "Conv1D":
        inputs = (*layer.config["kernel_size"], *inputs)
    return {"kernel": (*inputs, made.shape[-1]), "bias": made.shape[-1:]}


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise FatalError(f"{path.parent.name}/{path.name} is too large for a network.")
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py's
        raise FatalError(
            f"{path.parent.name}/{path.name} is damaged or not an HDF5 file."
        ) from error


def _text(file: h5py.File, key: str) -> str:
    # Of many texts each may be the same large one.
    single = key in file.attrs and file.attrs.get_id(key).shape == ()
    value = file.attrs[key] if single else None
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise LayerError(f"it holds no {key}, as a whole Keras model does")
    return text


def _members(group: Any) -> dict[str, Any]:
    """What a group holds. Hard links only: others may lead out of the file."""
    if not isinstance(group, h5py.Group):
        raise LayerError(f"it holds no layers in {_LAYERS}, as a whole Keras model does")
    if len(group) > _MOST_MEMBERS:
        raise LayerError(f"it holds {len(group)} entries in one place")
    for name in group:
        info = group.id.links.get_info(name.encode(errors="surrogateescape"))
        if info.type != h5l.TYPE_HARD:
            raise LayerError(f"its entry {reprlib.repr(name)} is a link to elsewhere")
    return {name: group[name] for name in group}


def _layer_weights(name: str, group: Any, shapes: dict[str, Shape]) -> Weights:
    found = dict[str, h5py.Dataset]()
    for key, dataset in _datasets(name, group):
        if key in found:
            raise LayerError(f"layer {name} has more than one {key}")
        found[key] = dataset
    if found.keys() != shapes.keys():
        raise LayerError(f"layer {name} has the weights {_listed(found)}, not {_listed(shapes)}")
    return {key: _array(name, key, found[key], shape) for key, shape in shapes.items()}


def _datasets(name: str, group: Any, depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    """The arrays of a layer, such as ``conv1d/kernel:0``, by the last part of their names."""
    for key, member in _members(group).items():
        if isinstance(member, h5py.Dataset):
            yield key.removesuffix(":0"), member
        elif isinstance(member, h5py.Group) and depth < _DEEPEST:
            yield from _datasets(name, member, depth + 1)
        else:
            raise LayerError(f"layer {name} holds {reprlib.repr(key)}, which is no weights")


def _array(name: str, key: str, dataset: h5py.Dataset, shape: Shape) -> NDArray[np.float32]:
    if dataset.is_virtual or dataset.external is not None:
        raise LayerError(f"layer {name} keeps its {key} outside the file")
    if dataset.shape != shape:
        raise LayerError(f"layer {name} has a {key} of shape {dataset.shape}, not {shape}")
    if dataset.chunks is not None:
        raise LayerError(f"layer {name} keeps its {key} in pieces, which Keras never does")
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise LayerError(f"layer {name} has a {key} without its numbers")
    if dataset.dtype.kind != "f":
        raise LayerError(f"layer {name} has a {key} of {dataset.dtype}, not of float32")
    with np.errstate(over="ignore"):  # of float64, to infinity
        values = np.asarray(dataset[()], dtype=np.float32)
    if not np.isfinite(values).all():
        raise LayerError(f"layer {name} has a {key} with values that are not finite")
    return values


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(sorted(map(reprlib.repr, names))) or "none"

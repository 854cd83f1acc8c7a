"""The graph of a Keras network, as ``model_config`` in its h5 file tells it.

What a layer reads is known by the names of the layers it reads, never by its own place or
number. ``read_graph`` follows the signals through the layers: every signal knows the layer with
weights (or the input, or the window) that it comes from and what was done to it since.

The classes of layers are those of astroNN's ApogeeBCNNCensored (Leung & Bovy 2019) in the
formats of Keras 2; anything else is refused. The file may be hostile: sizes and depths are
bounded, and nothing is evaluated.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeGuard

from worker.labels import LABELS
from worker.network.checkpoint import MOST_UNITS
from worker.network.masks import RATE
from worker.spectra.windows import element_window

_MOST_LAYERS = 1000
_MOST_SIGNALS = 100
_LONGEST_NAME = 100
_MASK_ENDING = "_Mask"

#: Layers that hold weights.
WEIGHTED = ("Conv1D", "Dense")

#: What a layer's configuration must say, by its class.
_REQUIRED: dict[str, dict[str, Any]] = {
    "Conv1D": {"kernel_size": [8], "strides": [1], "padding": "same", "use_bias": True},
    "Dense": {"use_bias": True},
    "MaxPooling1D": {"pool_size": [4], "strides": [4], "padding": "valid"},
    "MCDropout": {"rate": RATE},
    "Concatenate": {"axis": -1},
}
#: What it may leave out, since older versions of Keras knew nothing else.
_OPTIONAL: dict[str, Any] = {
    "data_format": "channels_last",
    "dilation_rate": [1],
    "groups": 1,
    "noise_shape": None,
}


class LayerError(Exception):
    """A network that is no ApogeeBCNNCensored; the text names the layer, for a sentence."""


@dataclass(frozen=True)
class Layer:
    """One layer: its class, its configuration and the names of the layers that it reads."""

    name: str
    kind: str
    config: dict[str, Any]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Signal:
    """What comes from one source, and what was done to it since.

    Attributes
    ----------
    source
        The layer that it comes from: an input, a window, or one with weights.
    shape
        ``(positions, channels)``, or ``(units,)`` once flattened.
    steps
        ``relu``, ``pool`` and ``dropout``, in their order.
    """

    source: str
    shape: tuple[int, ...]
    steps: tuple[str, ...] = ()

    def after(self, step: str) -> Signal:
        """The signal after one more step; what changes nothing is not kept."""
        if step == "linear" or (step == "relu" and self.steps[-1:] == ("relu",)):
            return self
        return replace(self, steps=(*self.steps, step))

    def __str__(self) -> str:
        return " > ".join((self.source, *self.steps))


Signals = tuple[Signal, ...]


@dataclass
class Graph:
    """The layers by name, and the signals that each of them reads and gives."""

    layers: dict[str, Layer]
    reads: dict[str, Signals] = field(default_factory=dict)
    gives: dict[str, Signals] = field(default_factory=dict)

    def reading(self, name: str) -> str:
        """What a layer reads, for messages."""
        return ", ".join(map(str, self.reads[name])) or "nothing"


def read_graph(model_config: str) -> Graph:
    """The graph of a Keras model.

    Parameters
    ----------
    model_config
        The JSON text of the model's configuration.

    Raises
    ------
    LayerError
        The text is no configuration of a functional model, or a layer is unknown or differs
        from those of the network.
    """
    layers = _layers(model_config)
    graph = Graph(layers)
    for name in _in_order(layers):
        layer = layers[name]
        for given, wanted in _settings(layer):
            if not _same(layer.config.get(given), wanted):
                value = reprlib.repr(layer.config.get(given))
                raise LayerError(f"layer {name} has {given} {value}, not {wanted!r}")
        graph.reads[name] = tuple(each for source in layer.inputs for each in graph.gives[source])
        graph.gives[name] = _apply(layer, graph.reads[name])
        if len(graph.gives[name]) > _MOST_SIGNALS:
            raise LayerError(f"layer {name} joins more than {_MOST_SIGNALS} signals")
    return graph


def element_of(mask: str) -> str:
    """The element whose window a mask holds, as :mod:`worker.labels` calls it.

    Raises
    ------
    LayerError
        The name of the mask tells none; the file holds no mask, so nothing else could.
    """
    position = label_position(mask.removesuffix(_MASK_ENDING))
    element = None if position is None else LABELS[position].element
    if element is None:
        raise LayerError(f"layer {mask} does not tell which element's window it holds")
    return element


def label_position(name: str) -> int | None:
    """The position among our labels of one that a peer names: ``C1``, ``[CI/H]``, ``Ti2``."""
    wanted = name.removeprefix("[").removesuffix("]").removesuffix("/H").lower()
    for position, label in enumerate(LABELS):
        if wanted == label.peer_name.removesuffix("_h") or wanted in (
            (label.element or label.name).lower(),
            # "[Ti II/H] abundance": the spectroscopist's name.
            label.description.partition("/")[0].removeprefix("[").replace(" ", "").lower(),
        ):
            return position
    return None


def _layers(model_config: str) -> dict[str, Layer]:
    try:
        entries = json.loads(model_config)["config"]["layers"]
        if len(entries) > _MOST_LAYERS:
            raise LayerError(f"the graph has more than {_MOST_LAYERS} layers")
        layers = [_layer(entry) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LayerError("its model_config is not that of a functional Keras model") from error
    by_name = {layer.name: layer for layer in layers}
    if len(by_name) < len(layers):
        raise LayerError("two layers of the graph bear the same name")
    for layer in layers:
        for missing in set(layer.inputs) - by_name.keys():
            raise LayerError(f"layer {missing}, which {layer.name} reads, is missing in the graph")
    return by_name


def _layer(entry: dict[str, Any]) -> Layer:
    config, nodes = entry["config"], entry["inbound_nodes"]
    name, kind = entry.get("name", config.get("name")), entry["class_name"]
    if not (_is_word(name) and _is_word(kind) and isinstance(config, dict)):
        raise TypeError("no layer")
    if len(nodes) > 1:
        raise LayerError(f"layer {name} is used more than once")
    if any(isinstance(node, dict) for node in nodes):
        raise LayerError(f"layer {name} is written in the format of Keras 3, which is not known")
    return Layer(name, kind, config, tuple(_source(name, each) for node in nodes for each in node))


def _source(name: str, reference: list[Any]) -> str:
    """The layer that ``["conv1d", 0, 0, {}]`` means: its first use, its first output."""
    source, node, output = reference[:3]
    if not _is_word(source) or node != 0 or output != 0:
        raise LayerError(f"layer {name} does not read the one output of a layer's one use")
    return source


def _is_word(value: object) -> TypeGuard[str]:
    """Whether it may stand in a message."""
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME


def _in_order(layers: dict[str, Layer]) -> Iterable[str]:
    """The names of the layers, each after those that it reads."""
    try:
        return tuple(
            TopologicalSorter({n: each.inputs for n, each in layers.items()}).static_order()
        )
    except CycleError as error:
        raise LayerError(f"layer {error.args[1][0]} reads itself, by way of others") from error


def _settings(layer: Layer) -> Iterable[tuple[str, Any]]:
    yield from _REQUIRED.get(layer.kind, {}).items()
    yield from ((key, wanted) for key, wanted in _OPTIONAL.items() if key in layer.config)


def _same(value: object, wanted: object) -> bool:
    if isinstance(value, float) and isinstance(wanted, float):
        return math.isclose(value, wanted, rel_tol=1e-6)  # some were float32
    return value == wanted


def _apply(layer: Layer, signals: Signals) -> Signals:
    """What a layer makes of what it reads."""
    name = layer.name
    match layer.kind:
        case "InputLayer":
            return (Signal(name, _input_shape(layer)),)
        case "Conv1D":
            (positions, _) = _single(layer, signals, 2).shape
            made = Signal(name, (positions, _units(layer, "filters")))
            return (made.after(_activation(layer)),)
        case "Dense":
            _flat(layer, signals)
            return (Signal(name, (_units(layer, "units"),)).after(_activation(layer)),)
        case "Activation":
            return tuple(each.after(_activation(layer)) for each in signals)
        case "MCDropout":
            return tuple(each.after("dropout") for each in signals)
        case "StopGrad":  # of gradients alone
            return signals
        case "MaxPooling1D":
            pooled = _single(layer, signals, 2)
            positions, channels = pooled.shape
            return (replace(pooled, shape=(positions // 4, channels)).after("pool"),)
        case "Flatten":
            return tuple(replace(each, shape=(math.prod(each.shape),)) for each in signals)
        case "BoolMask":
            return (_windowed(layer, _single(layer, signals, 1)),)
        case "Concatenate":
            _flat(layer, signals)
            return signals
    raise LayerError(f"layer {name} is a {layer.kind}, which ApogeeBCNNCensored does not have")


def _windowed(layer: Layer, spectrum: Signal) -> Signal:
    window = element_window(element_of(layer.name))
    if spectrum.shape != window.shape or spectrum.steps:
        raise LayerError(f"layer {layer.name} reads {spectrum} of shape {spectrum.shape}")
    return Signal(layer.name, (int(window.sum()),))


def _single(layer: Layer, signals: Signals, dimensions: int) -> Signal:
    if len(signals) != 1 or len(signals[0].shape) != dimensions:
        raise LayerError(f"layer {layer.name} reads {', '.join(map(str, signals)) or 'nothing'}")
    return signals[0]


def _flat(layer: Layer, signals: Signals) -> None:
    if not signals or any(len(each.shape) != 1 for each in signals):
        raise LayerError(f"layer {layer.name} reads {', '.join(map(str, signals)) or 'nothing'}")


def _activation(layer: Layer) -> str:
    activation = layer.config.get("activation")
    if activation not in ("relu", "linear"):
        value = reprlib.repr(activation)
        raise LayerError(f"layer {layer.name} has activation {value}, not 'relu'")
    return str(activation)


def _units(layer: Layer, key: str) -> int:
    units = layer.config.get(key)
    if not isinstance(units, int) or not 0 < units <= MOST_UNITS:
        raise LayerError(f"layer {layer.name} has {key} {reprlib.repr(units)}")
    return units


def _input_shape(layer: Layer) -> tuple[int, ...]:
    shape = layer.config.get("batch_input_shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape[1:]):
        raise LayerError(f"layer {layer.name} has batch_input_shape {reprlib.repr(shape)}")
    return tuple(shape[1:])

"""Which layers of a Keras graph are which parts of ApogeeBCNNCensored.

The parts are found from the outputs backwards: ``output`` and ``variance_output`` join the heads
of the labels, and every head tells what it reads. So neither the order of the layers nor their
automatic names matter, nor the order in which a head joins its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.labels import ELEMENT_POSITIONS, FULL_SPECTRUM_POSITIONS, LABELS
from worker.network.keras.graph import WEIGHTED, Graph, LayerError, Signal, element_of

#: A unit of a layer: what one column of its kernel and one number of its bias make.
Unit = tuple[str, int]

_RELU = ("relu",)
_RELU_DROPOUT = ("relu", "dropout")
_RELU_POOL_DROPOUT = ("relu", "pool", "dropout")


@dataclass(frozen=True)
class Part:
    """Where the weights of one of our layers are.

    Attributes
    ----------
    units
        The units of Keras layers that are its outputs, in our order.
    rows
        The rows of their kernels in the order of our inputs; None where the orders agree.
    """

    units: tuple[Unit, ...]
    rows: tuple[int, ...] | None = None

    @property
    def layers(self) -> list[str]:
        """The layers that it takes units from."""
        return list(dict.fromkeys(layer for layer, _ in self.units))


def find_parts(graph: Graph, positions: Sequence[int]) -> dict[str, Part]:
    """The parts of the network by the names of our layers, such as ``elem_dense1.0``.

    Parameters
    ----------
    graph
        The graph.
    positions
        For each of our labels, its place in the outputs of the graph.

    Raises
    ------
    LayerError
        The graph is not that of the network. One kind of it is known: in astroNN's first
        networks, of May 2018, the second layer of an element had no dropout behind it. They are
        refused and not reproduced, since a checkpoint has no place to say so and its readers
        would apply dropout there.
    """
    heads = _heads(graph, "output", positions)
    log_variances = _heads(graph, "variance_output", positions)
    full = tuple(heads[position] for position in FULL_SPECTRUM_POSITIONS)
    full_log_variances = tuple(log_variances[position] for position in FULL_SPECTRUM_POSITIONS)
    parts = _full_branch(graph, full + full_log_variances)
    _check_one_spectrum(graph, parts["conv1"].layers[0])
    auxiliary = _auxiliary(graph, heads[ELEMENT_POSITIONS[0]], {layer for layer, _ in full})
    if _only(graph, auxiliary, _RELU) != parts["dense_2"].units[0][0]:
        raise LayerError(f"layer {auxiliary} reads {graph.reading(auxiliary)}")
    parts |= {
        "dense_teffloggfeh": Part(full),
        "dense_teffloggfeh_var": Part(full_log_variances),
        "dense_aux_fullspec": _whole(graph, auxiliary),
    }
    joint = parts["dense_aux_fullspec"].units + full
    for element, position in enumerate(ELEMENT_POSITIONS):
        branch = _element_branch(graph, heads[position], log_variances[position], joint, position)
        parts |= {f"{name}.{element}": part for name, part in branch.items()}
    _check_all_used(graph, parts.values())
    return parts


def _heads(graph: Graph, output: str, positions: Sequence[int]) -> list[Unit]:
    """The units that give our labels, in our order."""
    if output not in graph.layers:
        raise LayerError(f"layer {output} is missing in the graph")
    signals = graph.gives[output]
    units = _units(signals)
    if len(units) != len(positions) or any(signal.steps for signal in signals):
        raise LayerError(f"layer {output} does not join {len(positions)} labels")
    return [units[position] for position in positions]


def _full_branch(graph: Graph, heads: Iterable[Unit]) -> dict[str, Part]:
    """The convolutions and dense layers that the heads of Teff, log g and [Fe/H] stand on."""
    found = {_only(graph, layer, _RELU) for layer, _ in heads}
    if len(found) != 1:
        read = ", ".join(sorted(found))
        raise LayerError(f"the heads of Teff, log g and [Fe/H] read {read}, not the same layer")
    dense_2 = found.pop()
    dense_1 = _only(graph, dense_2, _RELU_DROPOUT)
    conv2 = _only(graph, dense_1, _RELU_POOL_DROPOUT, "Conv1D")
    conv1 = _only(graph, conv2, _RELU_DROPOUT, "Conv1D")
    _only(graph, conv1, (), "InputLayer")
    names = {"conv1": conv1, "conv2": conv2, "dense_1": dense_1, "dense_2": dense_2}
    return {ours: _whole(graph, name) for ours, name in names.items()}


def _check_one_spectrum(graph: Graph, conv1: str) -> None:
    """Refuse a network whose windows are cut from another input than its convolutions read."""
    masks = [name for name, layer in graph.layers.items() if layer.kind == "BoolMask"]
    (spectrum,) = graph.reads[conv1]
    for name in masks:
        if graph.reads[name][0].source != spectrum.source:
            raise LayerError(
                f"layer {name} reads {graph.reading(name)}, but {conv1} reads {spectrum}"
            )


def _auxiliary(graph: Graph, head: Unit, full: set[str]) -> str:
    """The layer of the auxiliary features: what an element's head reads besides the labels."""
    others = [
        signal.source
        for signal in graph.reads[head[0]]
        if not signal.steps and signal.source not in full
    ]
    if len(others) != 1:
        raise LayerError(f"layer {head[0]} reads {graph.reading(head[0])}")
    return others[0]


def _element_branch(
    graph: Graph, head: Unit, log_variance: Unit, joint: tuple[Unit, ...], position: int
) -> dict[str, Part]:
    """The layers of an element, from its window to its two heads."""
    dense2 = _features(graph, head[0])
    dense1 = _only(graph, dense2, _RELU_DROPOUT)
    mask = _only(graph, dense1, (), "BoolMask")
    if element_of(mask) != LABELS[position].element:
        raise LayerError(f"layer {head[0]} gives {LABELS[position].name} from {mask}")
    features = _whole(graph, dense2)
    return {
        "elem_dense1": _whole(graph, dense1),
        "elem_dense2": features,
        "elem_dense_out": Part((head,), _rows(graph, head[0], features.units + joint)),
        "elem_dense_var": Part(
            (log_variance,), _rows(graph, log_variance[0], features.units + joint)
        ),
    }


def _features(graph: Graph, head: str) -> str:
    """The element's second layer, of all that its head reads."""
    found = [signal for signal in graph.reads[head] if signal.steps]
    if len(found) == 1 and found[0].steps == _RELU:
        raise LayerError(
            f"it is an older network, without dropout between {found[0].source} and {head}; with "
            "dropout there, as ApogeeBCNNCensored has it, its uncertainties would be wrong"
        )
    if len(found) != 1 or found[0].steps != _RELU_DROPOUT:
        raise LayerError(f"layer {head} reads {graph.reading(head)}")
    return found[0].source


def _rows(graph: Graph, head: str, wanted: tuple[Unit, ...]) -> tuple[int, ...] | None:
    """The rows of a head's kernel in our order of its inputs."""
    _features(graph, head)  # the same steps, whatever the source
    given = _units(graph.reads[head])
    if sorted(given) != sorted(wanted):
        raise LayerError(f"layer {head} reads {graph.reading(head)}")
    rows = tuple(given.index(unit) for unit in wanted)
    return None if rows == tuple(range(len(rows))) else rows


def _only(graph: Graph, layer: str, steps: tuple[str, ...], kind: str = "Dense") -> str:
    """The one source of what a layer reads, which must have come through these steps."""
    signals = graph.reads[layer]
    if (
        len(signals) != 1
        or signals[0].steps != steps
        or graph.layers[signals[0].source].kind != kind
    ):
        way = " > ".join((f"one {kind} layer", *steps))
        raise LayerError(f"layer {layer} reads {graph.reading(layer)}, not {way}")
    return signals[0].source


def _units(signals: Iterable[Signal]) -> list[Unit]:
    return [(signal.source, unit) for signal in signals for unit in range(signal.shape[-1])]


def _whole(graph: Graph, layer: str) -> Part:
    return Part(tuple(_units(graph.gives[layer])))


def _check_all_used(graph: Graph, parts: Iterable[Part]) -> None:
    used = {layer for part in parts for layer in part.layers}
    for name, layer in graph.layers.items():
        if layer.kind in WEIGHTED and name not in used:
            raise LayerError(f"layer {name} has no place in ApogeeBCNNCensored")

"""What an astroNN folder tells beside its weights: normalisation, names of labels, versions.

``astroNN_model_parameter.json`` exists in two layouts: up to 2018 ``"labels_mean": [...]``, later
``"labels_mean": {"output": [...], "variance_output": [...]}``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError
from worker.labels import LABELS
from worker.network.keras.graph import label_position
from worker.network.masks import RATE
from worker.network.normalisation import nonsense
from worker.spectra.pixels import N_PIXELS

PARAMETERS = "astroNN_model_parameter.json"
_NOTES = "hyperparameter.txt"
_MOST_BYTES = 16 * 2**20
_NETWORK = "ApogeeBCNNCensored"


@dataclass(frozen=True)
class Parameters:
    """The normalisation of a network.

    Attributes
    ----------
    input_mean
        ``(7514,)``: the mean of the training spectra, which is subtracted from the flux.
    labels_mean, labels_std
        ``(22,)`` each, in our order of labels.
    positions
        For each of our labels, its place in the network's outputs.
    """

    input_mean: NDArray[np.float64]
    labels_mean: NDArray[np.float64]
    labels_std: NDArray[np.float64]
    positions: tuple[int, ...]


def read_parameters(folder: Path) -> Parameters:
    """The normalisation and the order of labels of an astroNN folder.

    Raises
    ------
    FatalError
        The file cannot be read or is not that of ApogeeBCNNCensored with our labels.
    """
    path = folder / PARAMETERS
    try:
        content = _read_json(path)
        _check_network(content)
        positions = _positions(content.get("targetname"))
        parameters = Parameters(
            input_mean=_vector(content, "input_mean", "input", N_PIXELS),
            labels_mean=_vector(content, "labels_mean", "output", len(LABELS))[list(positions)],
            labels_std=_vector(content, "labels_std", "output", len(LABELS))[list(positions)],
            positions=positions,
        )
        for problem in nonsense(
            parameters.input_mean, parameters.labels_mean, parameters.labels_std
        ):
            raise ValueError(problem)
        return parameters
    except OSError as error:
        raise FatalError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise FatalError(f"{folder.name}/{PARAMETERS} cannot be used: {error}.") from error


def read_notes(folder: Path) -> dict[str, str | int]:
    """What ``hyperparameter.txt`` tells of a training; nothing where there is no such file.

    Returns
    -------
    dict
        ``astronn_version``, ``keras_version`` and ``training_spectra``, as far as they are told.
    """
    try:
        with (folder / _NOTES).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return {}
    notes: dict[str, str | int] = {}
    for key, name in (("astronn_version", "astroNN"), ("keras_version", "Keras")):
        if found := re.search(rf"^{name} Version: ([\w.+-]{{1,40}})\s*$", text, re.MULTILINE):
            notes[key] = found[1]
    if found := re.search(r"^Number of Training Data: (\d{1,12})\s*$", text, re.MULTILINE):
        notes["training_spectra"] = int(found[1])
    return notes


def _read_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def _check_network(content: dict[str, Any]) -> None:
    if content.get("id") != _NETWORK:
        raise ValueError(f"its id is not {_NETWORK}, the only network that can be converted")
    rate = content.get("dropout_rate", RATE)
    if not isinstance(rate, float) or not math.isclose(rate, RATE, rel_tol=1e-6):
        raise ValueError(f"its dropout_rate is not {RATE}")
    scale = np.asarray(_named(content.get("input_std", [1.0]), "input"))
    if scale.dtype.kind not in "if" or not (scale == 1).all():
        raise ValueError("its input_std is not 1")


def _positions(names: object) -> tuple[int, ...]:
    """For each of our labels, its place among the peer's names."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its targetname is not a list of names")
    ours = [label_position(name) for name in names]
    for name, position in zip(names, ours, strict=True):
        if position is None:
            raise ValueError(f"{name[:40]!r} in targetname is an unknown label")
    for position, label in enumerate(LABELS):
        if ours.count(position) != 1:
            raise ValueError(f"targetname has the label {label.name} {ours.count(position)} times")
    return tuple(ours.index(position) for position in range(len(LABELS)))


def _vector(content: dict[str, Any], key: str, name: str, size: int) -> NDArray[np.float64]:
    try:
        vector = np.asarray(_named(content.get(key), name), dtype=np.float64).reshape(-1)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{key} is not a list of numbers") from error
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise ValueError(f"{key} does not have {size} finite numbers")
    return vector


def _named(value: Any, name: str) -> Any:
    """The value of one input or output, in either layout."""
    return value.get(name) if isinstance(value, dict) else value

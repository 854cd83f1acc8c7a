"""astroNN folders, changed as a test needs them, and those of the peers."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.conftest import shared
from tests.inputs.keras_written import DR17, JSON, write_keras_folder
from worker.errors import FatalError
from worker.network.keras.convert import convert

Layers = dict[str, dict[str, Any]]


@cache
def keras_folder(name: str) -> Path:
    """A folder in one of the two layouts, not to be changed."""
    folder = tempfile.TemporaryDirectory(prefix="astronn-test-")
    atexit.register(folder.cleanup)
    return write_keras_folder(Path(folder.name), name)


def peer_folder(name: str) -> Path:
    """The folder of this layout that astroNN's own code wrote."""
    return shared("peer_models", name)


class KerasFolder:
    """A changeable folder."""

    def __init__(self, target: Path, name: str = DR17) -> None:
        self.path = target / name
        shutil.copytree(keras_folder(name), self.path)

    @property
    def h5(self) -> h5py.File:
        return h5py.File(self.path / "model_weights.h5", "r+")

    def edit_layers(self, edit: Callable[[Layers], Layers | None]) -> None:
        """Change the layers of the graph, given by name; their order is kept."""
        with self.h5 as file:
            config = json.loads(file.attrs["model_config"])
            layers = {layer["name"]: layer for layer in config["config"]["layers"]}
            config["config"]["layers"] = list((edit(layers) or layers).values())
            self.write_config(file, json.dumps(config))

    def edit_json(self, edit: Callable[[dict[str, Any]], None]) -> None:
        content = json.loads((self.path / JSON).read_text())
        edit(content)
        (self.path / JSON).write_text(json.dumps(content))

    @staticmethod
    def write_config(file: h5py.File, config: str) -> None:
        file.attrs["model_config"] = config

    def refusal(self) -> str:
        """What the converter says: one sentence that names the folder and gives no traceback."""
        with pytest.raises(FatalError) as caught:
            convert(self.path)
        text = str(caught.value)
        assert self.path.name in text
        assert text.endswith(".")
        assert "\n" not in text
        return text


def inputs(layer: dict[str, Any]) -> list[str]:
    return [reference[0] for reference in layer["inbound_nodes"][0]]


def set_inputs(layer: dict[str, Any], names: list[str]) -> None:
    layer["inbound_nodes"] = [[[name, 0, 0, {}] for name in names]]


def rewire(layers: Layers, old: str, new: str) -> None:
    """Let all that read one layer read another one."""
    for layer in layers.values():
        for reference in (layer["inbound_nodes"] or [[]])[0]:
            reference[0] = new if reference[0] == old else reference[0]

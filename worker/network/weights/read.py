"""Weights in either form: a checkpoint, or an astroNN model folder as it was downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.errors import UsageError
from worker.network.checkpoint import (
    Metadata,
    read_checkpoint,
    read_metadata,
    read_not_learnt,
    read_reference,
    stored_type,
)
from worker.network.reference import Reference

if TYPE_CHECKING:
    from worker.network.model import ApogeeBCNNCensored


@dataclass(frozen=True)
class Weights:
    """A network, the file that holds its weights, and what is known about it.

    ``stored_as`` is the type of the numbers in that file, ``not_learnt`` the labels that its
    training had none of.
    """

    model: ApogeeBCNNCensored
    file: Path
    stored_as: str
    metadata: Metadata
    not_learnt: tuple[str, ...] = ()
    reference: Reference | None = None


def read_weights(path: Path) -> Weights:
    """The weights of a checkpoint or of an astroNN folder.

    Raises
    ------
    UsageError
        There is nothing of this name, or the folder is no astroNN folder.
    FatalError
        The weights cannot be used; the text says why.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        from worker.network.keras.convert import convert
        from worker.network.keras.file import WEIGHTS

        converted = convert(path)
        return Weights(converted.model, path / WEIGHTS, "float32", converted.metadata)
    return Weights(
        read_checkpoint(path),
        path,
        stored_type(path),
        read_metadata(path),
        read_not_learnt(path),
        read_reference(path),
    )

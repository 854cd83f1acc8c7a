"""What a checkpoint and a report say of how a network was made; nothing of the machine."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.training.data import Indices, TrainingSet
from worker.version import software_version
from worker.which_labels import known_labels, names_of

if TYPE_CHECKING:
    from worker.comparison.statistics import Numbers
    from worker.network.reference import Reference
    from worker.training.trainer import Trained, TrainingSettings


@dataclass(frozen=True)
class TrainingRun:
    """What was asked for, and of what.

    Attributes
    ----------
    command
        The command line, see :func:`command_line`.
    kind
        ``coadd``, ``visit`` or ``both``.
    half
        Whether the weights are written as float16.
    description, purpose
        In the user's words; may be empty.
    split
        Indices of the spectra to train on and of those kept aside.
    left_out
        What could not be used, and how much of it; what was turned into something else.
    """

    command: str
    settings: TrainingSettings
    kind: str
    half: bool
    label_file: Path
    description: str
    purpose: str
    data: TrainingSet
    split: tuple[Indices, Indices]
    left_out: Mapping[str, str | int]


def command_line(arguments: Sequence[str]) -> str:
    """A command line as others may see it: of absolute paths the last name alone."""
    return shlex.join(["astronn-stream", *(_without_folder(each) for each in arguments)])


def _without_folder(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def metadata(run: TrainingRun, trained: Trained) -> dict[str, Any]:
    """What the checkpoint carries beside its weights: plain values of JSON."""
    import torch

    training = run.split[0]
    content: dict[str, Any] = {
        "format": 1,
        "origin": "astronn-stream model train",
        "trained_on": {
            "spectra": len(training),
            "stars": _n_stars(run.data, training),
            "kind": run.kind,
            "description": run.description,
            "labels": run.label_file.name,
            "labels_sha256": _sha256(run.label_file),
        },
        "command": run.command,
        "settings": asdict(run.settings),
        "epochs": len(trained.losses),
        "validation": {
            "spectra": len(run.split[1]),
            "stars": _n_stars(run.data, run.split[1]),
            "best_epoch": trained.best_epoch,
            "loss": trained.losses[trained.best_epoch - 1]["validation"],
        },
        "not_learnt": unknown_labels(run),
        "software_version": software_version(),
        "torch_version": str(torch.__version__),
    }
    return content | ({"purpose": run.purpose} if run.purpose else {})


def unknown_labels(run: TrainingRun) -> list[str]:
    """The labels that no spectrum of the training part has, in order."""
    return list(names_of(~known_labels(run.data.labels[run.split[0]])))


def about_reference(reference: Reference, kind: str, command: str) -> dict[str, Any]:
    """What the checkpoint says of where its reference comes from."""
    return {
        "reference": {
            "spectra": int(reference.spectra[0]),
            "kind": kind,
            "command": command,
            "software_version": software_version(),
        }
    }


def summary(numbers: Numbers) -> dict[str, Any]:
    """For each label the scatter on held-out stars, and the part within one sigma."""
    everything = {name: of_label["by_snr"]["all"] for name, of_label in numbers.items()}
    return {
        "scatter": {name: each["scatter"] for name, each in everything.items()},
        "within_1_sigma": {
            name: each["within_after"][0] if each["within_after"] else None
            for name, each in everything.items()
        },
    }


def counts(run: TrainingRun) -> dict[str, str | int]:
    """The data of a training in words, for its report."""
    return {
        "labels": known_part(run.label_file, run.data),
        "kind": run.kind,
        "description": run.description or "none given",
        "trained on": extent(run.data, run.split[0]),
        "held out": extent(run.data, run.split[1]),
        **run.left_out,
    }


def known_part(label_file: Path, data: TrainingSet) -> str:
    """A table of labels, and how much of it is known."""
    known = 100 * float(np.isfinite(data.labels).mean())
    return f"{label_file.name}, of whose entries {known:.1f} % are known"


def extent(data: TrainingSet, indices: Indices) -> str:
    """How many spectra these are, and of how many stars."""
    return f"{len(indices)} spectra of {_n_stars(data, indices)} stars"


def _n_stars(data: TrainingSet, indices: Indices) -> int:
    return len({data.stars[index] for index in indices})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Simulated spectra, and weights and a noise model of a user's own, for every clone.

The tests run on these; a few of them run on the real files of the shared data too.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.acceptance.command import EXECUTABLE
from tests.inputs.references import reference_of_anything, with_reference
from worker.labels import LABEL_NAMES

#: As many stars and visits as the real files have: with this seed 10 coadds and 34 visits.
SIMULATED = ("--stars", "10", "--visits", "5", "--seed", "6", "--layout", "mixed")


@pytest.fixture(scope="session")
def spectra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten simulated files in three layouts with 44 spectra."""
    survey, folder = tmp_path_factory.mktemp("survey"), tmp_path_factory.mktemp("spectra")
    subprocess.run([EXECUTABLE, "simulate", survey, *SIMULATED], check=True, capture_output=True)
    for file in survey.rglob("*.fits"):
        file.rename(folder / file.name)
    return folder


@pytest.fixture(scope="session")
def own_weights(tmp_path_factory: pytest.TempPathFactory, demonstration_weights: Path) -> Path:
    """Weights that are none of the package, for their file is another, but as good.

    They know what the spectra of their training are like.
    """
    content = torch.load(demonstration_weights, weights_only=True)
    content["metadata"]["purpose"] = "tests"
    path = tmp_path_factory.mktemp("weights") / "own.pt"
    torch.save(content, path)
    return with_reference(path, path, reference_of_anything())


@pytest.fixture(scope="session")
def own_noise_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noise model with the peers' numbers for two labels, and no change of the others."""
    factors = {name: {"scale": 1.0, "offset": 0.0} for name in LABEL_NAMES}
    factors["teff"] = {"scale": 1.0, "offset": 21.54434690031882}
    factors["o_h"] = {"scale": 2.0, "offset": 0.0278255940}
    path = tmp_path_factory.mktemp("noise") / "own.json"
    path.write_text(json.dumps(factors))
    return path

"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from sqlalchemy import Engine

from producer.simulation.observe import Observing, simulate_stars
from tests.conftest import shared
from tests.inputs.result_rows import small_database
from worker.network.checkpoint import read_checkpoint
from worker.network.model import ApogeeBCNNCensored
from worker.results.read import read_table
from worker.spectra.continuum import normalise, uncertainties


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Outputs of Astra's own class for its weights, and statistics of its 2000 random passes."""
    with np.load(shared("peer_models", "astra", "reference_astra.npz")) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model(weights: Path) -> ApogeeBCNNCensored:
    return read_checkpoint(weights)


@pytest.fixture(scope="module")
def astra_model(astra_weights: Path) -> ApogeeBCNNCensored:
    return read_checkpoint(astra_weights)


@pytest.fixture(scope="session")
def spectra() -> np.ndarray:
    """Sixteen simulated spectra, normalised, ``(16, 7514)``."""
    made = simulate_stars(0, range(16), Observing(visits=1, snr=(50.0, 200.0)))
    flux, error, mask = (
        np.concatenate([getattr(visits, name) for _, visits in made])
        for name in ("flux", "error", "mask")
    )
    return normalise(flux.astype(float), uncertainties(error), mask).astype(np.float32)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with small_database(tmp_path) as engine:
        yield engine


@pytest.fixture
def table(engine: Engine) -> Table:
    return read_table(engine)

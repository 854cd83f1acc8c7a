"""The GPU's engine as a whole, against the reference and in any company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.gpu.odd_network import DEVICE, odd_network
from worker.network.engines.reference import ReferenceEngine
from worker.network.engines.triton.engine import TritonEngine
from worker.network.model import ApogeeBCNNCensored

SEED = 20240607
KEYS = [f"star {n}" for n in range(5)]
FLUX = np.random.default_rng(3).normal(1, 0.1, size=(5, 7514)).astype(np.float32)
TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-2}


def engine(model: ApogeeBCNNCensored, **options: object) -> TritonEngine:
    return TritonEngine(model, seed=SEED, device=DEVICE, **options)


def check_against_reference(
    model: ApogeeBCNNCensored, flux: NDArray[np.float32], mc_samples: int, **options: object
) -> None:
    """Labels and uncertainties within the precision's part of the uncertainty."""
    keys, tolerance = KEYS[: len(flux)], TOLERANCES[str(options["precision"])]
    expected, e_expected = ReferenceEngine(model, mc_samples=mc_samples, seed=SEED)(flux, keys)
    labels, e_labels = engine(model, mc_samples=mc_samples, **options)(flux, keys)
    assert (np.abs(labels - expected) < tolerance * e_expected).all()
    np.testing.assert_allclose(e_labels, e_expected, rtol=tolerance)


@pytest.mark.parametrize(("precision", "rows"), [("float32", 3), ("bfloat16", 10)])
def test_labels_of_an_odd_network_equal_the_references(precision: str, rows: int) -> None:
    check_against_reference(odd_network(), FLUX[:2], 5, precision=precision, rows=rows)


def test_labels_of_the_published_widths_equal_the_references(
    astra_model: ApogeeBCNNCensored, reference: dict[str, NDArray[np.generic]]
) -> None:
    check_against_reference(
        astra_model, reference["spectra"][[0, 9]], 3, precision="bfloat16", rows=6
    )


def check_same(one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    """The same bits on a GPU; the interpreter's sums depend on a row's place in its tile."""
    if DEVICE == "cuda":
        assert one.tobytes() == other.tobytes()
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_a_spectrum_gets_the_same_bits_alone_and_in_any_company() -> None:
    model, order = odd_network(), [2, 0, 1]
    alone = engine(model, mc_samples=3, rows=2)(FLUX[:1], KEYS[:1])
    many = engine(model, mc_samples=3, rows=7)
    together = many(FLUX[order], [KEYS[n] for n in order])
    for one, all_of_them in zip(alone, together, strict=True):
        check_same(one[0], all_of_them[order.index(0)])


def test_flux_that_cannot_be_computed_with_gives_no_number() -> None:
    values = [np.nan, np.inf, -np.inf, 1e38]
    flux = FLUX.copy()
    flux[range(4), 4000] = values
    few = engine(odd_network(), mc_samples=2, rows=10)
    with np.errstate(all="ignore"):
        labels, e_labels = few(flux, KEYS)
    assert np.isnan(labels[:4]).all()
    assert np.isnan(e_labels[:4]).all()
    check_same(labels[4], few(FLUX[4:], KEYS[4:])[0][0])


@pytest.mark.parametrize("layer", ["conv2", "dense_1", "elem_dense2.0"])
def test_weights_that_are_no_numbers_give_no_finite_label(layer: str) -> None:
    model = odd_network()
    with torch.no_grad():
        model.get_parameter(f"{layer}.weight").fill_(torch.nan)
    with np.errstate(all="ignore"):
        labels, _ = engine(model, mc_samples=2, rows=2)(FLUX[:1], KEYS[:1])
    assert not np.isfinite(labels).all()

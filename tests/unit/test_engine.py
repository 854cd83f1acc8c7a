"""The engines: all against the reference, and the reference against Astra's own class."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.errors import FatalError
from worker.network.cpu_engine import CpuEngine
from worker.network.cpu_kernels import drop, pool_passes
from worker.network.cpu_steps import MARGIN, N_PAIRED, N_PLANES, PLANE, POSITIONS
from worker.network.cpu_vectors import LANES
from worker.network.engine import Engine, choose_device, open_engine, summarise
from worker.network.masks import dropout_masks
from worker.network.model import ApogeeBCNNCensored
from worker.network.philox import philox_key
from worker.network.reference_engine import ReferenceEngine
from worker.network.torch_engine import TorchEngine

Reference = dict[str, NDArray[np.generic]]
Open = Callable[..., Engine]

SEED = 20240607
KEY = "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"


def float32(model: ApogeeBCNNCensored, **options: int) -> Engine:
    return CpuEngine(model, precision="float32", **options)


def bfloat16(model: ApogeeBCNNCensored, **options: int) -> Engine:
    return CpuEngine(model, precision="bfloat16", **options)


ENGINES = {"torch": TorchEngine, "cpu float32": float32, "cpu bfloat16": bfloat16}
every_engine = pytest.mark.parametrize("open_one", ENGINES.values(), ids=ENGINES)


# --- The masks of the CPU's kernels --------------------------------------------------------


GENERATOR = np.random.default_rng(1)
RANDOM_KEYS = [
    (int(GENERATOR.integers(2**63)), f"star {n}") for n in GENERATOR.integers(2**40, size=5)
]


@pytest.mark.parametrize(("seed", "key"), [(0, KEY), *RANDOM_KEYS])
@pytest.mark.parametrize("first", [0, 50, 2**31])
def test_the_kernels_masks_are_the_references(
    model: ApogeeBCNNCensored, seed: int, key: str, first: int
) -> None:
    masks = dropout_masks(seed, key, range(first, first + LANES), model.architecture)
    for prefix, site in (("dense_1", 2), ("elem_dense1", 3), ("elem_dense2", 4)):
        expected = np.concatenate([m for n, m in masks.items() if n.startswith(prefix)], axis=1)
        values = np.ones((expected.shape[1] + 7) * LANES, np.float32)
        drop(values, values, site, expected.shape[1], first, *philox_key(seed, key))
        made = values.reshape(-1, LANES).T[:, : expected.shape[1]]
        np.testing.assert_array_equal(made == 1, expected)
    conv1, pool = kernel_masks(first, seed, key)
    np.testing.assert_array_equal(conv1, masks["conv1"][0])
    np.testing.assert_array_equal(pool, masks["pool"][0])


def kernel_masks(first: int, seed: int, key: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks of one pass of the fused kernel, in the network's order.

    A second convolution of zeros with biases of one leaves the second mask.
    """
    planes = np.zeros((N_PLANES, PLANE), np.float32)
    planes[:, MARGIN : MARGIN + 1879] = 1
    thinned, pooled = np.zeros_like(planes), np.zeros((4, POSITIONS), np.float32)
    weights = np.concatenate([np.zeros(N_PAIRED), np.ones(4)]).astype(np.float32)
    flat = (planes.ravel(), weights, thinned.ravel(), pooled.ravel())
    pool_passes(*flat, first, 1, *philox_key(seed, key))
    seen = thinned[:, MARGIN : MARGIN + 1879].reshape(2, 4, 1879).transpose(0, 2, 1)
    return seen.reshape(2, -1)[:, :7514].ravel() == 1, pooled[:, :1878].T.ravel() == 1


# --- The engines against the reference -----------------------------------------------------


@pytest.mark.parametrize(
    ("open_one", "tolerance"),
    [(TorchEngine, 1e-4), (float32, 1e-4), (bfloat16, 1e-2)],
    ids=["torch", "cpu float32", "cpu bfloat16"],
)
@pytest.mark.parametrize("mc_samples", [7, 51, 100])
def test_an_engine_equals_the_reference_within_a_part_of_the_uncertainty(
    model: ApogeeBCNNCensored,
    reference: Reference,
    open_one: Open,
    tolerance: float,
    mc_samples: int,
) -> None:
    flux, keys = reference["spectra"][[0, 9]], [KEY, "another"]
    labels, e_labels = open_one(model, mc_samples=mc_samples, seed=SEED)(flux, keys)
    expected, e_expected = ReferenceEngine(model, mc_samples=mc_samples, seed=SEED)(flux, keys)
    assert (np.abs(labels - expected) < tolerance * e_expected).all()
    np.testing.assert_allclose(e_labels, e_expected, rtol=tolerance)


def test_bfloat16_is_worth_less_than_a_hundredth_of_the_monte_carlo_scatter(
    model: ApogeeBCNNCensored, reference: Reference
) -> None:
    flux, keys = reference["spectra"], [f"star {n}" for n in range(16)]
    single, _ = float32(model, mc_samples=100, seed=SEED)(flux, keys)
    half, _ = bfloat16(model, mc_samples=100, seed=SEED)(flux, keys)
    scatter = reference["labels_std"] * np.sqrt(reference["mc_var_unbiased_norm"])
    moved = (half - single) / scatter
    assert 0 < np.sqrt((moved**2).mean()) < 1e-3
    assert np.abs(moved).max() < 1e-2


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_batch_on_other_threads_gives_the_same_bits(
    model: ApogeeBCNNCensored, reference: Reference, threads: int
) -> None:
    flux = np.concatenate([reference["spectra"]] * 5)[:70]  # more than go at once
    keys = [f"star {n}" for n in range(70)]
    engine = CpuEngine(model, mc_samples=6, seed=SEED, threads=threads)
    one = CpuEngine(model, mc_samples=6, seed=SEED, threads=2)
    labels, e_labels = engine(flux, keys)
    for row in (0, 63, 64, 69):
        alone, e_alone = one(flux[row : row + 1], [keys[row]])
        assert alone.tobytes() == labels[row].tobytes()
        assert e_alone.tobytes() == e_labels[row].tobytes()


def test_the_engine_leaves_torchs_threads_alone(model: ApogeeBCNNCensored) -> None:
    before = torch.get_num_threads()
    CpuEngine(model, mc_samples=2, seed=0, threads=2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_flux_that_cannot_be_computed_with_gives_no_number(
    model: ApogeeBCNNCensored, reference: Reference, value: float
) -> None:
    flux = np.repeat(reference["spectra"][:1], 2, axis=0)
    flux[0, 4000] = value
    with np.errstate(all="ignore"):
        labels, _ = CpuEngine(model, mc_samples=3, seed=0)(flux, ["a", "b"])
    assert np.isnan(labels[0]).all()
    assert np.isfinite(labels[1]).all()


def test_without_numba_torch_does_it(
    model: ApogeeBCNNCensored, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "worker.network.cpu_engine", None)  # its import fails
    engine = open_engine(model, mc_samples=10, seed=SEED)
    assert isinstance(engine, TorchEngine)
    monkeypatch.undo()
    usual = open_engine(model, mc_samples=10, seed=SEED)
    assert isinstance(usual, CpuEngine)
    flux = reference["spectra"][:1]
    for one, other in zip(engine(flux, [KEY]), usual(flux, [KEY]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2)


@every_engine
@pytest.mark.parametrize("rows", [[1, 2, 3, 0, 4, 5, 6], [0, 6, 4], [5, 0]], ids=str)
def test_a_spectrum_gets_the_same_bits_alone_and_in_any_company(
    model: ApogeeBCNNCensored, reference: Reference, open_one: Open, rows: list[int]
) -> None:
    spectra = reference["spectra"]
    engine = open_one(model, mc_samples=60, seed=SEED)
    alone = engine(spectra[:1], ["star 0"])
    together = engine(spectra[rows], [f"star {row}" for row in rows])
    for one, many in zip(alone, together, strict=True):
        assert many.shape == (len(rows), 22)
        assert one[0].tobytes() == many[rows.index(0)].tobytes()


@pytest.mark.parametrize(("seed", "key"), [(SEED + 1, "star 0"), (SEED, "star 1")])
def test_another_seed_or_spectrum_gives_other_numbers(
    model: ApogeeBCNNCensored, reference: Reference, seed: int, key: str
) -> None:
    flux = reference["spectra"][:1]
    labels, e_labels = CpuEngine(model, mc_samples=10, seed=SEED)(flux, ["star 0"])
    others, e_others = CpuEngine(model, mc_samples=10, seed=seed)(flux, [key])
    assert (labels != others).all()
    assert (e_labels != e_others).all()


def test_statistics_agree_with_2000_passes_of_astras_class(
    model: ApogeeBCNNCensored, reference: Reference
) -> None:
    passes, their_passes = 400, int(reference["mc_num"])
    assert their_passes == 2000
    engine = CpuEngine(model, mc_samples=passes, seed=SEED)
    labels, e_labels = engine(reference["spectra"], [f"star {n}" for n in range(16)])
    standard_error = reference["labels_std"] * np.sqrt(
        reference["mc_var_unbiased_norm"] * (1 / passes + 1 / their_passes)
    )
    z = (labels - reference["mc_mean"]) / standard_error
    # 16 x 22 = 352 scores; labels share the full-spectrum branch and so correlate. If they
    # made but 22 independent ones, the mean of z^2 would scatter by sqrt(2 / 22) = 0.3 around
    # one; about two of those scatters are allowed, and 4.5 standard deviations for the worst.
    assert 0.6 < (z**2).mean() < 1.6
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) < 0.5
    # The uncertainty's own relative error is about (2 * 400)^-0.5 = 3.5 % where the model's
    # variance is all of it, with a longer tail where single passes lie far out.
    ratio = e_labels / reference["mc_total"]
    assert np.abs(ratio - 1).max() < 0.15
    assert abs(ratio.mean() - 1) < 0.01


@pytest.mark.parametrize("shape", [(1, 7514), (2, 7513), (7514,)])
def test_flux_that_does_not_fit_the_keys_is_refused(
    model: ApogeeBCNNCensored, shape: tuple[int, ...]
) -> None:
    engine = CpuEngine(model, mc_samples=2, seed=0)
    with pytest.raises(ValueError, match="for 2 spectra"):
        engine(np.ones(shape, np.float32), ["a", "b"])


def test_summarise_equals_a_literal_loop() -> None:
    generator = np.random.default_rng(5)
    labels, log_variances = generator.normal(size=(2, 9, 22))
    mean, std = summarise(labels, log_variances)
    for label in range(22):
        values = [float(value) for value in labels[:, label]]
        average = sum(values) / 9
        spread = sum((value - average) ** 2 for value in values) / 8
        noise = np.exp(sum(float(value) for value in log_variances[:, label]) / 9)
        assert mean[label] == pytest.approx(average, rel=1e-12)
        assert std[label] == pytest.approx((noise + spread) ** 0.5, rel=1e-12)


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(FatalError, match="no such GPU"):
        choose_device("cuda")

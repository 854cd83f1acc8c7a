"""The CPU engine's own layers and kernels, each against the obvious formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from worker.network.engines.cpu.engine import CpuEngine
from worker.network.engines.cpu.kernels import drop, elements_first, multiply, pool_passes
from worker.network.engines.cpu.layers import bits, paired_convolution, pooled_to_hidden, windows
from worker.network.engines.cpu.products import GROUP, ROWS, WINDOW_TILE
from worker.network.engines.cpu.steps import MARGIN, N_PAIRED, N_PLANES, PLANE, POSITIONS
from worker.network.engines.cpu.vectors import LANES
from worker.network.engines.reference import ReferenceEngine
from worker.network.masks import KEEP_SCALE, dropout_masks
from worker.network.model import N_ELEMENTS, PADDING, POOL, ApogeeBCNNCensored, Architecture
from worker.network.philox import philox_key
from worker.spectra.pixels import N_PIXELS

Singles = NDArray[np.float32]

SEED = 20240607
KEY = "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"


@pytest.fixture(scope="module")
def uneven() -> ApogeeBCNNCensored:
    """A network of which no width fills a tile."""
    generator = torch.Generator().manual_seed(3)
    widths = torch.randint(1, 70, (3, N_ELEMENTS), generator=generator).tolist()
    model = ApogeeBCNNCensored(Architecture((50, 21), *map(tuple, widths)))
    for parameter in model.parameters():
        values = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.5 * values / max(1, parameter[0].numel()) ** 0.5
    for element in range(N_ELEMENTS):
        window = model.window(element)
        window[:] = torch.randint(N_PIXELS, window.shape, generator=generator)
    return model.eval().requires_grad_(False)


def simulated(n: int) -> Singles:
    return np.random.default_rng(5).normal(1, 0.1, size=(n, N_PIXELS)).astype(np.float32)


# --- The masks -----------------------------------------------------------------------------


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
        kept = np.empty_like(values)
        drop(values, kept, site, expected.shape[1], first, *philox_key(seed, key))
        made = kept.reshape(-1, LANES).T[:, : expected.shape[1]]
        np.testing.assert_array_equal(made == 1, expected)
    conv1, pool = kernel_masks(first, seed, key)
    np.testing.assert_array_equal(conv1, masks["conv1"][0])
    np.testing.assert_array_equal(pool, masks["pool"][0])


def kernel_masks(first: int, seed: int, key: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks of one pass of the fused kernel, in the network's order.

    A second convolution of zeros with biases of one leaves the second mask.
    """
    weights = np.concatenate([np.zeros(N_PAIRED), np.ones(4)]).astype(np.float32)
    thinned, pooled = pooled_pass(np.ones((2, N_PIXELS)), weights, first, seed, key)
    seen = thinned[:, MARGIN : MARGIN + 1879].reshape(2, 4, 1879).transpose(0, 2, 1)
    return seen.reshape(2, -1)[:, :N_PIXELS].ravel() == 1, pooled.ravel() == 1


def pooled_pass(
    convolved: NDArray[np.float64], weights: Singles, first: int, seed: int, key: str
) -> tuple[Singles, Singles]:
    """What one pass of the fused kernel leaves of a convolved spectrum, and ``(1878, 4)`` of it."""
    planes = np.zeros((N_PLANES, PLANE), np.float32)
    padded = np.pad(convolved, ((0, 0), (0, -N_PIXELS % POOL)))
    planes[:, MARGIN : MARGIN + 1879] = padded.reshape(2, -1, 4).transpose(0, 2, 1).reshape(8, -1)
    thinned, pooled = np.zeros_like(planes), np.zeros((4, POSITIONS), np.float32)
    flat = (planes.ravel(), weights, thinned.ravel(), pooled.ravel())
    pool_passes(*flat, first, 1, *philox_key(seed, key))
    return thinned, pooled[:, :1878].T


# --- The layers ----------------------------------------------------------------------------


def test_three_products_give_what_four_do() -> None:
    torch.manual_seed(2)
    layer = nn.Conv1d(2, 4, 8).double()
    convolved = np.random.default_rng(3).normal(size=(2, N_PIXELS))
    architecture = Architecture((1, 1), (1,) * 19, (1,) * 19, (1,) * 19)
    masks = {name: mask[0] for name, mask in dropout_masks(0, KEY, range(1), architecture).items()}
    seen = torch.from_numpy(convolved * masks["conv1"].reshape(2, -1) * KEEP_SCALE)
    passed = functional.relu(layer(functional.pad(seen, PADDING)))
    expected = functional.max_pool1d(passed, POOL).T.detach().numpy()
    _, pooled = pooled_pass(convolved, paired_convolution(layer), 0, 0, KEY)
    np.testing.assert_allclose(pooled, expected * masks["pool"].reshape(-1, 4), atol=2e-6)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_in_tiles_is_a_product(
    uneven: ApogeeBCNNCensored, precision: torch.dtype
) -> None:
    rows = 3 * ROWS
    generator = torch.Generator().manual_seed(4)
    values = torch.rand(rows, 4, POSITIONS, generator=generator).to(precision)
    layer = pooled_to_hidden(uneven, precision)
    hidden = np.full((rows + 2, len(layer.biases)), np.nan, np.float32)
    multiply(bits(values), rows, layer, hidden, 1)
    dense = uneven.dense_1
    weights = (dense.weight.double() * KEEP_SCALE).to(precision).double()
    inputs = values[:, :, :1878].transpose(1, 2).flatten(1).double()
    expected = functional.linear(inputs, weights, dense.bias.double()).numpy()
    np.testing.assert_allclose(hidden[1 : rows + 1, : expected.shape[1]], expected, atol=1e-5)
    assert not hidden[1 : rows + 1, expected.shape[1] :].any()
    assert np.isnan(hidden[[0, rows + 1]]).all()  # no other row is touched


@pytest.mark.parametrize("shares", [1, 2, 7, 200])
def test_shares_of_the_elements_layers_make_the_whole(
    uneven: ApogeeBCNNCensored, shares: int
) -> None:
    spectra = simulated(GROUP)
    flux = np.ascontiguousarray(spectra.T).ravel()
    pixels, layers = windows(uneven, shares)
    assert len(layers) <= shares
    made = []
    for layer in layers:
        outputs = np.empty((GROUP, len(layer.biases)), np.float32)
        elements_first(flux, pixels, layer, outputs.ravel(), len(layer.biases))
        made.append(outputs[:, :-WINDOW_TILE])
    expected = [values.numpy() for values in uneven.share(torch.from_numpy(spectra)).elements]
    np.testing.assert_allclose(
        np.concatenate(made, axis=1), np.concatenate(expected, axis=1), atol=1e-5
    )


# --- The engine ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mc_samples", [2, 13])
def test_a_network_of_any_widths_is_computed(
    uneven: ApogeeBCNNCensored, threads: int, mc_samples: int
) -> None:
    flux, keys = simulated(2), ["a", "b"]
    engine = CpuEngine(
        uneven, mc_samples=mc_samples, seed=SEED, precision="float32", threads=threads
    )
    labels, e_labels = engine(flux, keys)
    reference = ReferenceEngine(uneven, mc_samples=mc_samples, seed=SEED)
    expected, e_expected = reference(flux, keys)
    assert (np.abs(labels - expected) < 1e-4 * e_expected).all()
    np.testing.assert_allclose(e_labels, e_expected, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bits_are_the_same_alone_in_seven_and_in_a_thousand(
    uneven: ApogeeBCNNCensored, precision: str
) -> None:
    flux = np.tile(simulated(4), (256, 1))
    keys = [f"star {n}" for n in range(1024)]
    # 23 passes: of seven spectra in parts of 20 and 3 for two threads, of 1024 in one.
    engine = CpuEngine(uneven, mc_samples=23, seed=SEED, precision=precision, threads=2)
    many = np.stack(engine(flux, keys))
    for first in (0, 60, 1017):
        seven = np.stack(engine(flux[first : first + 7], keys[first : first + 7]))
        assert seven.tobytes() == many[:, first : first + 7].tobytes()
        alone = np.stack(engine(flux[first : first + 1], keys[first : first + 1]))
        assert alone.tobytes() == many[:, first : first + 1].tobytes()
    assert len(np.unique(many[0], axis=0)) == 1024

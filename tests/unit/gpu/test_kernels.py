"""The GPU's kernels one by one: masks bit for bit, layers against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch.nn import functional

from tests.unit.gpu.odd_network import ARCHITECTURE, DEVICE, odd_network
from worker.network.engines.dense_layers import window_layers, window_pixels
from worker.network.engines.triton.convolutions import (
    CONVOLVED_PITCH,
    MARGIN,
    convolve_spectra,
    pool_passes,
)
from worker.network.engines.triton.dense import first_elements
from worker.network.engines.triton.layers import MaskRow, convolution, mask_row, tiles
from worker.network.engines.triton.masks import draw_masks, philox_words
from worker.network.masks import CONV1, KEEP_SCALE, POOLED, Masks, dropout_masks, mask_sites
from worker.network.model import PADDING, POOL
from worker.network.philox import philox, philox_key

GENERATOR = np.random.default_rng(1)
KEYS = [(int(GENERATOR.integers(2**63)), f"star {n}") for n in range(3)]


def on_device(values: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values).to(DEVICE)


# --- The masks -----------------------------------------------------------------------------


@triton.jit
def words_of(counters, words, BLOCK: tl.constexpr):  # noqa: N803 - Triton's way
    """Philox of ``BLOCK`` rows of block, site, pass and two words of a key."""
    row = tl.arange(0, BLOCK)
    block = tl.load(counters + row).to(tl.uint32, bitcast=True)
    site = tl.load(counters + BLOCK + row).to(tl.uint32, bitcast=True)
    number = tl.load(counters + 2 * BLOCK + row).to(tl.uint32, bitcast=True)
    key0 = tl.load(counters + 3 * BLOCK + row).to(tl.uint32, bitcast=True)
    key1 = tl.load(counters + 4 * BLOCK + row).to(tl.uint32, bitcast=True)
    made = philox_words(block, site, number, key0, key1)
    for word in tl.static_range(4):
        tl.store(words + word * BLOCK + row, made[word].to(tl.int32, bitcast=True))


def test_philox_equals_the_plain_form() -> None:
    counters = GENERATOR.integers(2**32, size=(5, 64), dtype=np.uint32)
    counters[:, 0] = 0  # a known answer that comes with Random123
    counters[:, 1] = 2**32 - 1
    words = torch.zeros(4, 64, dtype=torch.int32, device=DEVICE)
    words_of[(1,)](on_device(counters.view(np.int32)), words, BLOCK=64)
    made = words.cpu().numpy().view(np.uint32).T
    assert [f"{word:08x}" for word in made[0]] == ["5f6fb709", "0d893f64", "4f121f81", "4f730a48"]
    for row, (*counter, key0, key1) in zip(made, counters.T.tolist(), strict=True):
        np.testing.assert_array_equal(row, philox(np.array([*counter, 0]), (key0, key1)))


def drawn(
    row: MaskRow, keys: list[tuple[int, str]], first: int, n_passes: int, programs: int
) -> torch.Tensor:
    """The masks' bytes of some passes of some spectra, ``(spectra, passes, pitch)``."""
    pitch = row.calls.shape[1]
    words = np.array([philox_key(*key) for key in keys], dtype=np.uint32).view(np.int32)
    bits = torch.zeros(len(keys), n_passes, pitch, dtype=torch.uint8, device=DEVICE)
    draw_masks[(pitch // 512, programs, len(keys))](
        *(on_device(words), row.calls.to(DEVICE), bits, first, n_passes),
        PITCH=pitch,
        BLOCK=512,
        PASSES=-(-n_passes // programs),
    )
    return bits


@pytest.mark.parametrize(("first", "programs"), [(0, 1), (97, 2), (2**31 - 3, 3)])
def test_masks_are_the_references_bit_for_bit(first: int, programs: int) -> None:
    row = mask_row(ARCHITECTURE, 512)
    bits = drawn(row, KEYS, first, 3, programs).cpu().numpy()
    numbers = np.unpackbits(bits, axis=2, bitorder="little").astype(bool)
    for spectrum, key in enumerate(KEYS):
        expected = dropout_masks(*key, range(first, first + 3), ARCHITECTURE)
        for name, site in mask_sites(ARCHITECTURE).items():
            made = numbers[spectrum][:, 8 * row.starts[site.number] + site.numbers]
            np.testing.assert_array_equal(made, expected[name], err_msg=name)


# --- The convolutions ----------------------------------------------------------------------


def plainly_pooled(convolved: torch.Tensor, masks: Masks) -> torch.Tensor:
    """What the second dropout leaves of one spectrum, ``(passes, 7512)``, in double precision."""
    layer = odd_network().conv2.double()
    kept = {name: torch.from_numpy(mask * KEEP_SCALE) for name, mask in masks.items()}
    seen = convolved.double().flatten() * kept["conv1"]
    padded = functional.pad(seen.reshape(-1, *convolved.shape), PADDING)
    pooled = functional.max_pool1d(functional.relu(layer(padded)), POOL)
    return (pooled.transpose(1, 2).flatten(1) * kept["pool"]).detach()


def test_pooling_of_two_spectra_equals_torchs() -> None:
    row, n_passes, programs = mask_row(ARCHITECTURE, 512), 3, 2
    spectra = torch.from_numpy(GENERATOR.normal(size=(2, 2, 7514)).astype(np.float32)).relu()
    convolved = torch.zeros(2, 2, CONVOLVED_PITCH)
    convolved[:, :, MARGIN : MARGIN + 7514] = spectra
    bits = drawn(row, KEYS[:2], 5, n_passes, 1)
    made = {}
    for kind in (torch.float32, torch.bfloat16):
        made[kind] = torch.full((2, n_passes, 7552), 7, dtype=kind, device=DEVICE)
        pool_passes[(2, programs, 2)](
            *(convolved.to(DEVICE), bits, convolution(odd_network().conv2, KEEP_SCALE)),
            *(made[kind], n_passes),
            PITCH=bits.shape[2],
            CONV1=row.starts[CONV1],
            POOLED=row.starts[POOLED],
            POOLED_PITCH=7552,
            BLOCK=1024,
            PASSES=-(-n_passes // programs),
        )
    single, half = (made[kind].cpu() for kind in (torch.float32, torch.bfloat16))
    for spectrum, key in enumerate(KEYS[:2]):
        expected = plainly_pooled(spectra[spectrum], dropout_masks(*key, range(5, 8), ARCHITECTURE))
        scaled = single[spectrum, :, :7512].double() * KEEP_SCALE
        torch.testing.assert_close(scaled, expected, rtol=1e-5, atol=1e-6)
    assert (single[:, :, 7512:] == 7).all()  # what lies behind a row is left alone
    # Compiled code rounds to even, the interpreter cuts off.
    rounding = 2**-8 if DEVICE == "cuda" else 2**-7
    torch.testing.assert_close(half.float(), single, rtol=rounding, atol=0)


def test_the_shared_part_equals_torchs() -> None:
    model = odd_network()
    flux = torch.from_numpy(GENERATOR.normal(1, 0.1, size=(3, 7514)).astype(np.float32))
    spectra = model.normalise_input(flux)
    expected = model.share(spectra)
    convolved = torch.full((3, 2, CONVOLVED_PITCH), 7.0, device=DEVICE)
    convolve_spectra[(15, 3)](spectra.to(DEVICE), convolution(model.conv1), convolved, BLOCK=512)
    seen = convolved[:, :, MARGIN : MARGIN + 7514].cpu()
    torch.testing.assert_close(seen, expected.convolved, rtol=1e-5, atol=1e-6)
    assert convolved.count_nonzero() == seen.count_nonzero()  # zeros on both sides
    width = sum(ARCHITECTURE.element1)
    elements = torch.full((4, width), 7.0, device=DEVICE)
    layers = tiles(window_layers(model), 32, 32)
    pixels = window_pixels(model).astype(np.int32)
    first_elements[(len(layers.table), 1)](
        *(spectra.to(DEVICE), on_device(pixels), *(part.to(DEVICE) for part in layers)),
        *(elements, 3),
        PITCH=width,
        SPECTRA=16,
        WIDTH=32,
        STEP=32,
    )
    torch.testing.assert_close(
        elements[:3].cpu(), torch.cat(expected.elements, dim=1), rtol=1e-5, atol=1e-6
    )
    assert (elements[3] == 7).all()

"""The dropout masks: the generator, the definition in docs/mc_dropout.md, and their statistics."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.network.engines.torch_masks import TorchMasks
from worker.network.masks import Masks, dropout_masks, mask_sites, site_blocks
from worker.network.model import Architecture
from worker.network.philox import philox, philox_key

SEED = 20240607
KEY = "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"
#: The exact probability of keeping a unit: 16-bit numbers from 19661 on.
KEEP = 1 - 19661 / 65536
WORD = 2**32 - 1
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    """As the published networks have it, with other windows."""
    return Architecture(
        (192, 96), (10,) * 19, (256, 32, 256) + (32,) * 16, (64, 16, 64) + (16,) * 16
    )


@pytest.fixture(scope="module")
def masks_of_400_passes(architecture: Architecture) -> Masks:
    return dropout_masks(SEED, KEY, range(400), architecture)


# --- The generator -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "counter_and_key", "expected"),
    [  # the known answers that come with Random123
        (7, [0] * 6, "5f6fb709 0d893f64 4f121f81 4f730a48"),
        (7, [WORD] * 6, "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (7, PI, "4dfccaba 190a87f0 c47362ba b6b5242a"),
        (10, [0] * 6, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (10, [WORD] * 6, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (10, PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_its_known_answers(
    rounds: int, counter_and_key: list[int], expected: str
) -> None:
    *counter, first, second = counter_and_key
    words = philox(np.array(counter), (first, second), rounds)
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_the_key_is_eight_bytes_of_blake2b() -> None:
    digest = hashlib.blake2b(b"7/apStar-1.2-apo25m-\xc3\x85ngstr\xc3\xb6m/coadd", digest_size=8)
    first, second = philox_key(7, "apStar-1.2-apo25m-Ångström/coadd")
    assert first | second << 32 == int.from_bytes(digest.digest(), "little")


# --- The definition ------------------------------------------------------------------------


def number_of(name: str, unit: int, architecture: Architecture) -> tuple[int, int, int]:
    """Site number, block and number in the block of a unit, as docs/mc_dropout.md tells it."""
    if name == "conv1":
        channel, position = divmod(unit, 7514)
        return 0, position // 4, 2 * (position % 4) + channel
    if name == "pool":
        position, channel = divmod(unit, 4)
        return 1, position // 2, 2 * channel + position % 2
    if name == "dense_1":
        return 2, unit // 8, unit % 8
    kind, element = name.split(".")
    widths = architecture.element1 if kind == "elem_dense1" else architecture.element2
    unit += sum(widths[: int(element)])
    return 3 if kind == "elem_dense1" else 4, unit // 8, unit % 8


@pytest.mark.parametrize(("seed", "key"), [(0, KEY), (2**63 - 1, "apStar-Ångström/coadd")])
def test_masks_follow_their_definition_unit_by_unit(
    architecture: Architecture, seed: int, key: str
) -> None:
    masks = dropout_masks(seed, key, range(3, 5), architecture)
    assert list(masks) == list(architecture.dropout_sites)
    for name, mask in masks.items():
        units = architecture.dropout_sites[name]
        assert mask.shape == (2, units)
        for unit in range(0, units, 1 + units // 50):
            site, block, place = number_of(name, unit, architecture)
            words = philox(np.array([block, site, 4, 0]), philox_key(seed, key))
            number = int(words[place // 2]) >> 16 * (place % 2) & 0xFFFF
            assert mask[1, unit] == (number >= 19661), (name, unit)


def test_no_two_units_share_a_number(architecture: Architecture) -> None:
    sites = mask_sites(architecture)
    places = [(site.number, int(n)) for site in sites.values() for n in site.numbers]
    assert len(places) == len(set(places)) == sum(architecture.dropout_sites.values())
    assert site_blocks(sites) == {0: 1879, 1: 939, 2: 24, 3: 132, 4: 50}


@pytest.mark.parametrize("passes", [range(3), range(97, 100), range(2**32 - 2, 2**32)], ids=str)
def test_torch_makes_the_same_masks(architecture: Architecture, passes: range) -> None:
    draw = TorchMasks(architecture, torch.device("cpu"))
    for seed, key in ((SEED, KEY), (0, ""), (2**63 - 1, "x")):
        made = draw(seed, key, passes)
        expected = dropout_masks(seed, key, passes, architecture)
        assert list(made) == list(expected)
        for site, mask in expected.items():
            np.testing.assert_array_equal(made[site].numpy(), mask, strict=True)


# --- The statistics ------------------------------------------------------------------------


def test_keep_rates_of_all_sites_lie_within_their_binomial_bounds(
    masks_of_400_passes: Masks,
) -> None:
    # 41 sites at 4.5 standard deviations: chance fails one seed in 3000.
    assert len(masks_of_400_passes) == 41
    for site, mask in masks_of_400_passes.items():
        bound = 4.5 * np.sqrt(KEEP * (1 - KEEP) / mask.size)
        assert abs(mask.mean() - KEEP) < bound, site


def test_every_unit_is_kept_at_the_rate_of_all(masks_of_400_passes: Masks) -> None:
    # 24,188 units at 400 passes each: 6 standard deviations bound the worst of them.
    kept = np.concatenate([mask.mean(axis=0) for mask in masks_of_400_passes.values()])
    assert np.abs(kept - KEEP).max() < 6 * np.sqrt(KEEP * (1 - KEEP) / 400)
    assert kept.std() == pytest.approx(np.sqrt(KEEP * (1 - KEEP) / 400), rel=0.05)


def all_units(seed: int, key: str, first: int, architecture: Architecture) -> NDArray[np.bool_]:
    """All units of eight passes."""
    masks = dropout_masks(seed, key, range(first, first + 8), architecture)
    return np.concatenate(list(masks.values()), axis=1).ravel()


def correlation(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """In units of its standard deviation for independent masks, n to the power of -1/2."""
    return float(np.corrcoef(one, other)[0, 1] * np.sqrt(one.size))


@pytest.mark.parametrize(
    ("seed", "key", "first"),
    [
        (SEED + 1, KEY, 0),
        (SEED, KEY + "2", 0),
        (SEED, KEY, 1),
        (SEED, KEY, 8),
        (SEED, KEY, 2**31),
    ],
    ids=["other seed", "other spectrum", "next pass", "later pass", "far pass"],
)
def test_other_masks_are_uncorrelated(
    architecture: Architecture, seed: int, key: str, first: int
) -> None:
    one = all_units(SEED, KEY, 0, architecture)
    assert abs(correlation(one, all_units(seed, key, first, architecture))) < 4.5


def test_neighbouring_units_are_uncorrelated(masks_of_400_passes: Masks) -> None:
    # In the order of the network and so across the words and halves of the generator.
    for site in ("conv1", "pool", "dense_1", "elem_dense1.0"):
        mask = masks_of_400_passes[site][:40]
        for lag in (1, 2, 3, 4, 7, 8, 16):
            value = correlation(mask[:, :-lag].ravel(), mask[:, lag:].ravel())
            assert abs(value) < 4.5, (site, lag)


def test_sites_and_channels_are_uncorrelated(masks_of_400_passes: Masks) -> None:
    first, second = np.split(masks_of_400_passes["conv1"][:, :15028], 2, axis=1)
    assert abs(correlation(first.ravel(), second.ravel())) < 4.5
    pool = masks_of_400_passes["pool"]
    assert abs(correlation(first[:, :7512].ravel(), pool.ravel())) < 4.5

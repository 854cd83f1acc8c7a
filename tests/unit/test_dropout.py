from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.network.dropout import McDropoutEngine, dropout_masks, summarise
from worker.network.model import ApogeeBCNNCensored, masked

Reference = dict[str, NDArray[np.generic]]
Masks = dict[str, NDArray[np.float32]]

SMALL_SITES = {"first": 5, "second": 1003, "third": 64}
SEED = 20240607
KEY = "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"
#: The exact probability of keeping a unit: 16-bit numbers from 19661 on.
KEEP = 1 - 19661 / 65536


@pytest.fixture(scope="module")
def masks_of_400_passes(model: ApogeeBCNNCensored) -> Masks:
    return dropout_masks(SEED, KEY, 0, 400, model.architecture.dropout_sites)


# --- The generator and the definition of the masks -----------------------------------------


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x64-10 of Salmon et al. (2011), one block of four words."""
    word = 2**64 - 1
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (high >> 64) ^ b ^ k, high & word, (low >> 64) ^ d ^ m, low & word
        k, m = (k + 0x9E3779B97F4A7C15) & word, (m + 0xBB67AE8584CAA73B) & word
    return [a, b, c, d]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that come with Random123
        (
            [0] * 4,
            [0] * 2,
            [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
        ),
        (
            [2**64 - 1] * 4,
            [2**64 - 1] * 2,
            [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
        ),
    ],
)
def test_philox_gives_its_known_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    assert philox(counter, key) == expected


@pytest.mark.parametrize("counter", [[0, 0, 0, 0], [0, 0, 99, 0], [7, 0, 2**40, 3]])
def test_numpys_philox_counts_up_and_then_gives_the_blocks_of_philox(counter: list[int]) -> None:
    key = [0x243F6A8885A308D3, 0x13198A2E03707344]
    ours = [word for n in (1, 2) for word in philox([counter[0] + n, *counter[1:]], key)]
    theirs = np.random.Philox(key=np.array(key, np.uint64), counter=counter).random_raw(8)
    assert theirs.tolist() == ours


def masks_by_the_definition(
    seed: int, natural_key: str, passes: range, sites: dict[str, int]
) -> Masks:
    """The docstring of ``dropout_masks``, unit by unit."""
    digest = hashlib.blake2b(f"{seed}/{natural_key}".encode(), digest_size=16).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")]
    masks: Masks = {site: np.zeros((len(passes), n), np.float32) for site, n in sites.items()}
    for row, number in enumerate(passes):
        numbers = (
            (word >> shift) & 0xFFFF
            for block in range(1, 10**9)
            for word in philox([block, 0, number, 0], key)
            for shift in (0, 16, 32, 48)
        )
        for site, n_units in sites.items():
            for unit in range(n_units):
                masks[site][row, unit] = 0 if next(numbers) < 19661 else np.float32(1 / 0.7)
    return masks


def assert_same_masks(masks: Masks, expected: Masks) -> None:
    assert list(masks) == list(expected)
    for site, mask in masks.items():
        assert mask.dtype == np.float32
        np.testing.assert_array_equal(mask, expected[site], strict=True)


@pytest.mark.parametrize(
    ("seed", "natural_key"), [(0, KEY), (2**63, "apStar-1.2-apo25m-Ångström/coadd")]
)
def test_masks_follow_their_definition_bit_for_bit(seed: int, natural_key: str) -> None:
    assert_same_masks(
        dropout_masks(seed, natural_key, 3, 6, SMALL_SITES),
        masks_by_the_definition(seed, natural_key, range(3, 6), SMALL_SITES),
    )


def test_masks_of_the_real_network_follow_their_definition(model: ApogeeBCNNCensored) -> None:
    sites = model.architecture.dropout_sites
    assert_same_masks(
        dropout_masks(SEED, KEY, 99, 100, sites),
        masks_by_the_definition(SEED, KEY, range(99, 100), sites),
    )


def test_the_threshold_is_exact() -> None:
    digest = hashlib.blake2b(f"{SEED}/{KEY}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, "<u8"), counter=[0, 0, 5, 0])
    numbers = generator.random_raw(500_000).astype("<u8").view("<u2")
    assert {19660, 19661} <= set(numbers.tolist())
    kept = dropout_masks(SEED, KEY, 5, 6, {"all": len(numbers)})["all"][0] > 0
    np.testing.assert_array_equal(kept, numbers >= 19661)


@pytest.mark.parametrize("edges", [[0, 1, 11], [0, 5, 6, 11], list(range(12))])
def test_masks_do_not_depend_on_how_the_passes_are_split(edges: list[int]) -> None:
    parts = [dropout_masks(SEED, KEY, *pair, SMALL_SITES) for pair in pairwise(edges)]
    joined = {site: np.concatenate([part[site] for part in parts]) for site in SMALL_SITES}
    assert_same_masks(joined, dropout_masks(SEED, KEY, 0, 11, SMALL_SITES))


# --- The statistics of the masks -----------------------------------------------------------


def test_keep_rates_of_all_sites_lie_within_their_binomial_bounds(
    masks_of_400_passes: Masks,
) -> None:
    # 41 sites at 4.5 standard deviations: chance fails one seed in 3000.
    assert len(masks_of_400_passes) == 41
    for site, mask in masks_of_400_passes.items():
        bound = 4.5 * np.sqrt(KEEP * (1 - KEEP) / mask.size)
        assert abs((mask > 0).mean() - KEEP) < bound, site
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}, site


def test_every_unit_is_kept_at_the_rate_of_all(masks_of_400_passes: Masks) -> None:
    # 23,671 units at 400 passes each: 6 standard deviations bound the worst of them.
    kept = np.concatenate([(mask > 0).mean(axis=0) for mask in masks_of_400_passes.values()])
    assert np.abs(kept - KEEP).max() < 6 * np.sqrt(KEEP * (1 - KEEP) / 400)
    assert kept.std() == pytest.approx(np.sqrt(KEEP * (1 - KEEP) / 400), rel=0.05)


@pytest.mark.parametrize(
    ("seed", "natural_key", "first"),
    [
        (SEED + 1, KEY, 0),
        (SEED, KEY + "2", 0),
        (SEED, KEY, 1),
        (SEED, KEY, 50),
        (SEED, KEY, 2**32),
    ],
    ids=["other seed", "other spectrum", "next pass", "later pass", "far pass"],
)
def test_other_masks_are_uncorrelated(seed: int, natural_key: str, first: int) -> None:
    # The correlation of n independent pairs has the standard deviation n**-0.5; 4.5 of them.
    units = {"all": 200_000}
    one = dropout_masks(SEED, KEY, 0, 1, units)["all"][0]
    other = dropout_masks(seed, natural_key, first, first + 1, units)["all"][0]
    assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 * 200_000**-0.5


def test_neighbouring_units_are_uncorrelated() -> None:
    mask = dropout_masks(SEED, KEY, 0, 1, {"all": 200_000})["all"][0]
    for lag in (1, 2, 3, 4, 8, 16):
        correlation = np.corrcoef(mask[:-lag], mask[lag:])[0, 1]
        assert abs(correlation) < 4.5 * (200_000 - lag) ** -0.5, lag


# --- The engine against the plain way ------------------------------------------------------


def run_plainly(
    model: ApogeeBCNNCensored, flux: NDArray[np.float32], natural_key: str, mc_samples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each pass alone through the whole network, and the statistics of ``pipeline.md``."""
    spectrum = (torch.from_numpy(flux[None]).double() - model.input_mean).float()
    labels, log_variances = np.empty((2, mc_samples, 22))
    sites = model.architecture.dropout_sites
    for number in range(mc_samples):
        masks = dropout_masks(SEED, natural_key, number, number + 1, sites)
        dropout = masked({site: torch.from_numpy(mask) for site, mask in masks.items()})
        with torch.inference_mode():
            one_labels, one_log_variances = model(spectrum, dropout)
        labels[number], log_variances[number] = one_labels[0], one_log_variances[0]
    mean = labels.sum(axis=0) / mc_samples
    model_variance = ((labels - mean) ** 2).sum(axis=0) / (mc_samples - 1)
    std = np.sqrt(np.exp(log_variances.sum(axis=0) / mc_samples) + model_variance)
    scale, offset = model.labels_std.numpy(), model.labels_mean.numpy()
    return mean * scale + offset, std * scale


@pytest.mark.parametrize(("row", "mc_samples"), [(0, 100), (3, 7), (9, 51)])
def test_the_engine_equals_sequential_passes_of_the_whole_network(
    model: ApogeeBCNNCensored, reference: Reference, row: int, mc_samples: int
) -> None:
    flux = reference["spectra"][row]
    engine = McDropoutEngine(model, mc_samples=mc_samples, seed=SEED)
    (labels,), (e_labels,) = engine(flux[None], [KEY])
    expected, e_expected = run_plainly(model, flux, KEY, mc_samples)
    # 1e-5 relative, plus 1e-5 of the labels' scatter for those that lie near zero.
    tolerance = 1e-5 * (np.abs(expected) + model.labels_std.numpy())
    assert (np.abs(labels - expected) < tolerance).all()
    np.testing.assert_allclose(e_labels, e_expected, rtol=1e-5)
    assert (e_labels > 0).all()


@pytest.mark.parametrize("rows", [[1, 2, 3, 0, 4, 5, 6], [0, 6, 4], [5, 0]], ids=str)
def test_a_spectrum_gets_the_same_bits_alone_and_in_any_company(
    model: ApogeeBCNNCensored, reference: Reference, rows: list[int]
) -> None:
    spectra = reference["spectra"]
    engine = McDropoutEngine(model, mc_samples=60, seed=SEED)
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
    labels, e_labels = McDropoutEngine(model, mc_samples=10, seed=SEED)(flux, ["star 0"])
    others, e_others = McDropoutEngine(model, mc_samples=10, seed=seed)(flux, [key])
    assert (labels != others).all()
    assert (e_labels != e_others).all()


def test_statistics_agree_with_2000_passes_of_astras_class(
    model: ApogeeBCNNCensored, reference: Reference
) -> None:
    passes, their_passes = 400, int(reference["mc_num"])
    assert their_passes == 2000
    engine = McDropoutEngine(model, mc_samples=passes, seed=SEED)
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
    engine = McDropoutEngine(model, mc_samples=2, seed=0)
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
    import torch

    from worker.errors import FatalError
    from worker.network.dropout import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(FatalError, match="no such GPU"):
        choose_device("cuda")

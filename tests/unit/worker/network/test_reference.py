"""How unlike the spectra of a training one is: the plain formula, batches, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inputs.references import reference_of_stars, stars
from worker.array_types import Singles
from worker.errors import FatalError, UsageError
from worker.network.checkpoint import (
    read_checkpoint,
    read_metadata,
    read_reference,
    write_checkpoint,
)
from worker.network.model import ApogeeBCNNCensored
from worker.network.reference import LEVELS, Reference
from worker.training.reference import fit_reference


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of_stars()


def plain(reference: Reference, spectrum: Singles, snr: float) -> float:
    """The share by the formula, one number after the other, in double precision."""
    scaled = (spectrum.astype(float) - reference.mean) / reference.scale
    along = reference.components.astype(float) @ scaled
    outside = scaled - along @ reference.components.astype(float)
    values = (
        math.sqrt(sum((along / reference.deviations) ** 2) / len(along)),
        math.sqrt(sum(outside**2) / 7514),
    )
    shares = []
    for value, quantiles, tails in zip(values, reference.quantiles, reference.tails, strict=True):
        at = [
            (1 - np.interp(value, row, LEVELS)) * math.exp(-max(value - row[-1], 0) / tail)
            for row, tail in zip(quantiles, tails, strict=True)
        ]
        known = snr > 0
        shares.append(np.interp(math.log(snr), np.log(reference.snr), at) if known else max(at))
    return min(1.0, 2 * min(shares))


@pytest.mark.parametrize("snr", [5.0, 40.0, 70.0, 160.0, 900.0, math.nan, 0.0])
def test_the_share_is_that_of_the_plain_formula(reference: Reference, snr: float) -> None:
    flux = np.concatenate([stars(20, 3), stars(5, 4) ** 2, np.ones((1, 7514), np.float32)])
    found = reference.p_training(flux, np.full(len(flux), snr))
    expected = [plain(reference, spectrum, snr) for spectrum in flux]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-12)
    assert len(set(found)) > 5


def test_without_snr_it_is_not_known(reference: Reference) -> None:
    flux = stars(5, 5)
    unknown = reference.p_training(flux, np.full(5, np.nan))
    np.testing.assert_array_equal(reference.p_training(flux), unknown)
    for snr in reference.snr:
        assert (unknown >= reference.p_training(flux, np.full(5, snr))).all()


def test_a_share_does_not_depend_on_what_else_is_in_the_batch(reference: Reference) -> None:
    flux, snr = stars(33, 6), np.linspace(20, 300, 33)
    whole = reference.p_training(flux, snr)
    alone = [reference.p_training(flux[i : i + 1], snr[i : i + 1])[0] for i in range(33)]
    mixed = np.random.default_rng(0).permutation(33)
    spread = np.zeros((33, 7514 * 2 + 1), np.float32)[:, 1:7515]  # odd places in memory
    spread[:] = flux
    assert whole.tobytes() == np.array(alone).tobytes()
    assert whole[mixed].tobytes() == reference.p_training(flux[mixed], snr[mixed]).tobytes()
    assert whole.tobytes() == reference.p_training(spread, snr).tobytes()
    assert reference.p_training(flux[:0], snr[:0]).shape == (0,)


@pytest.mark.parametrize("snr", [40.0, 160.0])
def test_of_spectra_like_the_training_shares_are_even(reference: Reference, snr: float) -> None:
    shares = reference.p_training(stars(1000, 7, snr=snr), np.full(1000, snr))
    assert (shares < 0.01).mean() < 0.02
    assert 0.02 < (shares < 0.1).mean() < 0.2


@pytest.mark.parametrize(
    "odd",
    [
        lambda flux: np.roll(flux, 3, axis=1),
        lambda flux: 0 * flux + 1,
        lambda flux: flux[:, ::-1],
        lambda flux: np.random.default_rng(0).uniform(0, 2, flux.shape),
        lambda flux: flux * 1e9,
    ],
)
def test_other_spectra_are_unlike(reference: Reference, odd: Any) -> None:
    flux = np.asarray(odd(stars(20, 8)), np.float32)
    assert (reference.p_training(flux, np.full(20, 100.0)) < 0.01).all()


def test_a_few_spectra_tell_nothing() -> None:
    with pytest.raises(UsageError, match="5 spectra do not tell"):
        fit_reference(stars(5, 9), np.arange(5), np.full(5, 100.0))


def test_spectra_of_unknown_snr_make_a_reference_too() -> None:
    made = fit_reference(stars(500, 10), np.arange(0, 500, 2), np.full(250, np.nan))
    assert (made.spectra[0], len(made.snr)) == (250, 1)
    assert (made.p_training(stars(50, 11)) >= 0.01).mean() > 0.9


def test_a_reference_survives_writing_and_reading(
    tmp_path: Path, model: ApogeeBCNNCensored, reference: Reference
) -> None:
    path = tmp_path / "w.pt"
    write_checkpoint(path, model, {"some": 1}, reference=reference)
    found = read_reference(path)
    assert found is not None
    for name, array in reference.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array, name)
    assert read_metadata(path) == {"some": 1}
    read_checkpoint(path)
    # What others read it with.
    content = torch.load(path, weights_only=True)
    assert content["reference"]["components"].dtype == torch.float16
    again = tmp_path / "again.pt"
    write_checkpoint(again, model, {"some": 1}, reference=found)
    assert again.read_bytes() == path.read_bytes()
    write_checkpoint(path, model, {})
    assert read_reference(path) is None


ODD: dict[str, tuple[Any, str]] = {
    "a number": (5, "not made of plain tensors"),
    "a text in it": ({"mean": "text"}, "not made of plain tensors"),
    "integers": ({"mean": torch.zeros(7514, dtype=torch.int64)}, "not made of plain tensors"),
    "a sparse tensor": ({"mean": torch.zeros(7514).to_sparse()}, "not made of plain tensors"),
    "huge": ({"mean": torch.zeros(2**21 + 1)}, "larger than any"),
    "one number, huge": ({"mean": torch.zeros(1).expand(2**40)}, "not made of plain tensors"),
    "one storage, often": (dict.fromkeys([*"abcdefghi"], torch.zeros(2**18)), "larger than any"),
    "nothing": ({}, "its arrays are not"),
}
CHANGED: dict[str, tuple[str, Any, str]] = {
    "NaN": ("mean", lambda it: it * math.nan, "mean has values that are not finite"),
    "infinite": ("tails", lambda it: it / 0, "tails has values that are not finite"),
    "no scale": ("scale", lambda it: it * 0, "scale has values that are not positive"),
    "pixels": ("mean", lambda it: it[:-1], "mean has shape"),
    "axes": ("components", lambda it: it[0], "components has shape"),
    "components": ("components", lambda it: it[:-1], "has shape"),
    "many components": ("components", lambda it: it.repeat(5, 1), "has shape"),
    "places": ("snr", lambda it: it[:1], "has shape"),
    "no places": ("snr", lambda it: it[:0], "has shape"),
    "S/N": ("snr", lambda it: it.flip(0), "do not ascend"),
    "quantiles": ("quantiles", lambda it: -it, "do not ascend"),
    "a scalar": ("snr", lambda it: it[0], "has shape"),
}


@pytest.mark.parametrize(("content", "said"), ODD.values(), ids=ODD)
def test_what_is_no_reference_is_refused(
    tmp_path: Path, weights: Path, content: Any, said: str
) -> None:
    refuse(tmp_path / "odd.pt", weights, content, said)


@pytest.mark.parametrize(("name", "change", "said"), CHANGED.values(), ids=CHANGED)
def test_a_reference_that_cannot_be_is_refused(
    tmp_path: Path, weights: Path, reference: Reference, name: str, change: Any, said: str
) -> None:
    arrays = {key: torch.tensor(array) for key, array in reference.arrays().items()}
    refuse(tmp_path / "odd.pt", weights, arrays | {name: change(arrays[name])}, said)


def refuse(path: Path, weights: Path, content: Any, said: str) -> None:
    """The weights with such a reference are told from those that can be used."""
    torch.save(torch.load(weights, weights_only=True) | {"reference": content}, path)
    with pytest.raises(FatalError, match=said) as refused:
        read_reference(path)
    assert "reference of odd.pt" in str(refused.value)

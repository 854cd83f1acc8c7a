"""How unlike the spectra of a training one is: the plain formula, batches, files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inputs.references import reference_of_stars, shares, stars
from worker.errors import FatalError, UsageError
from worker.network.checkpoint import (
    read_checkpoint,
    read_metadata,
    read_reference,
    write_checkpoint,
)
from worker.network.model import ApogeeBCNNCensored
from worker.network.reference import EXCEEDANCES, Reference
from worker.training.reference import Trusted, fit_reference, reference_spectra


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of_stars()


def plain(reference: Reference, spectra: Trusted, number: int) -> float:
    """The share by the formula, one number after the other, in double precision."""
    flux, snr = spectra.flux[number].astype(float), float(spectra.snr[number])
    away = np.where(flux == 1, 0, np.clip(flux - reference.mean, -0.5, 0.5))
    components = reference.components.astype(float)
    left = away - components.T @ (components @ away)
    power = sum(left**2)
    smooth = sum(left[i] * left[i + 1] for i in range(7513)) / power
    known = reference.learnt == 1
    answer = np.array([*spectra.labels[number][known], *np.log(spectra.e_labels[number][known])])
    answer -= reference.answer_mean
    axes = np.clip(reference.answer_axes @ (answer / reference.answer_std), -3, 3)
    low, high, mean = reference.ln_snr
    x = [*axes, min(max(math.log(snr), low), high) - mean]
    terms = [1.0, *x, *(x[i] * x[j] for i in range(6) for j in range(i, 6))]
    expected = np.array(terms) @ reference.coefficients
    measures = [
        sum((reference.answer_factor @ answer) ** 2),
        math.log(power) - expected[0],
        smooth - expected[1],
    ]
    found = []
    for measure, value in enumerate(measures):
        at = [
            np.interp(math.log(snr), reference.snr_places, reference.quantiles[measure, :, q])
            for q in range(13)
        ]
        if value > at[12]:
            found.append(0.01 * 10 ** (-(value - at[12]) / (at[12] - at[9])))
        elif value < at[1]:
            found.append(1 - 0.1 * 2 ** (-(at[1] - value) / (at[2] - at[1])))
        else:
            found.append(math.exp(np.interp(value, at, np.log(EXCEEDANCES))))
    rarest = min(found[0] / 0.1, found[1] / 0.6, found[2] / 0.3)
    if rarest < 1e-9:  # as the product would be, were its numbers long enough
        return rarest
    none = (1 - 0.1 * rarest) * (1 - 0.6 * rarest) * (1 - 0.3 * rarest)
    return 1.0 if 0.6 * rarest >= 1 else 1 - none


@pytest.mark.parametrize("odd", [False, True])
def test_the_share_is_that_of_the_plain_formula(reference: Reference, odd: bool) -> None:
    spectra = stars(12, 3)
    spectra.flux[0, 100:200] = 1
    spectra.flux[1, 300] = 7
    if odd:
        spectra = replace(spectra, flux=spectra.flux**2, labels=1.5 * spectra.labels)
    spectra.snr[:2] = 1, 5000
    found = shares(reference, spectra)
    expected = [plain(reference, spectra, number) for number in range(12)]
    np.testing.assert_allclose(found, expected, rtol=0.01)
    assert len(set(found)) > 5


@pytest.mark.parametrize("snr", [math.nan, 0.0, -1.0])
def test_where_snr_is_not_known_the_share_is_not_either(reference: Reference, snr: float) -> None:
    assert np.isnan(shares(reference, stars(3, 5), np.full(3, snr))).all()


def test_a_share_does_not_depend_on_what_else_is_in_the_batch(reference: Reference) -> None:
    spectra = stars(33, 6)

    def of(numbers: list[int]) -> bytes:
        arrays = (getattr(spectra, field.name) for field in fields(Trusted))
        chosen = [array[numbers] for array in (*arrays,)[:4]]
        return shares(reference, Trusted(*chosen, spectra.learnt)).tobytes()

    whole = shares(reference, spectra)
    assert whole.tobytes() == b"".join(of([number]) for number in range(33))
    mixed = np.random.default_rng(0).permutation(33)
    assert whole[mixed].tobytes() == of(mixed.tolist())
    apart = np.zeros((33, 7514 * 2 + 1), np.float32)[:, 1:7515]  # odd places in memory
    apart[:] = spectra.flux
    assert whole.tobytes() == shares(reference, replace(spectra, flux=apart)).tobytes()
    assert of([]) == b""


def test_of_spectra_like_the_training_shares_are_even(reference: Reference) -> None:
    found = shares(reference, stars(2000, 7))
    assert 0.001 < (found < 0.01).mean() < 0.03
    assert 0.05 < (found < 0.1).mean() < 0.2
    assert (found < 0.001).mean() < 0.005


ODD: dict[str, Callable[[Trusted], Trusted]] = {
    "shifted": lambda it: replace(it, flux=np.roll(it.flux, 3, axis=1)),
    "backwards": lambda it: replace(it, flux=it.flux[:, ::-1]),
    "noise": lambda it: replace(
        it, flux=np.random.default_rng(0).uniform(0, 2, it.flux.shape).astype(np.float32)
    ),
    "bright": lambda it: replace(it, flux=it.flux * np.float32(1e9)),
    "infinite": lambda it: replace(it, flux=it.flux * np.float32(np.inf)),
    "odd labels": lambda it: replace(it, labels=it.labels + 3),
    "odd errors": lambda it: replace(it, e_labels=it.e_labels * 100),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_other_spectra_are_unlike(
    reference: Reference, change: Callable[[Trusted], Trusted]
) -> None:
    assert (shares(reference, change(stars(20, 8))) < 0.01).all()


def test_spectra_for_a_reference_are_taken_evenly_from_those_of_known_snr() -> None:
    snr = np.full(20_000, 80.0)
    snr[::2] = np.nan
    snr[1] = 0  # as DR17 writes it
    chosen = reference_spectra(snr)
    assert 3000 < len(chosen) <= 4000
    assert (snr[chosen] == 80).all()
    assert chosen[-1] > 19_900
    with pytest.raises(UsageError, match="199 spectra of known S/N do not tell"):
        reference_spectra(np.full(199, 50.0))


def test_spectra_of_one_snr_and_a_single_label_make_a_reference_too() -> None:
    few = stars(300, 10)
    few = replace(few, snr=np.full(300, 100.0), learnt=(np.arange(22) == 0).astype(float))
    made = fit_reference(few)
    assert (made.spectra[0], len(made.snr_places), len(made.answer_mean)) == (300, 1, 2)
    assert (shares(made, few) >= 0.01).mean() > 0.95


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
    assert content["reference"]["components"].dtype == torch.float32
    again = tmp_path / "again.pt"
    write_checkpoint(again, model, {"some": 1}, reference=found)
    assert again.read_bytes() == path.read_bytes()
    write_checkpoint(path, model, {})
    assert read_reference(path) is None


NONE: dict[str, tuple[Any, str]] = {
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
    "infinite": ("answer_factor", lambda it: it / 0, "answer_factor has values that are not"),
    "no scatter": ("answer_std", lambda it: it * 0, "answer_std or spectra are not positive"),
    "no spectra": ("spectra", lambda it: it * 0, "answer_std or spectra are not positive"),
    "pixels": ("mean", lambda it: it[:-1], "mean has shape"),
    "axes": ("components", lambda it: it[0], "components has shape"),
    "many components": ("components", lambda it: it.repeat(20, 1), "it has 240 components"),
    "labels": ("learnt", lambda it: it * 0, "its answers have 12 numbers"),
    "places": ("snr_places", lambda it: it[:1], "has shape"),
    "no places": ("snr_places", lambda it: it[:0], "has shape"),
    "S/N": ("snr_places", lambda it: it.flip(0), "do not ascend"),
    "quantiles": ("quantiles", lambda it: -it, "do not ascend"),
    "no tail": ("quantiles", lambda it: it * 0, "do not ascend"),
    "a scalar": ("mean", lambda it: it[0], "has shape"),
}


@pytest.mark.parametrize(("content", "said"), NONE.values(), ids=NONE)
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


def test_equal_quantiles_give_shares_too(reference: Reference) -> None:
    """As where a measure is the same for many spectra; between 0 and 1 for any value."""
    quantiles = reference.quantiles.copy()
    quantiles[:, :, :5] = quantiles[:, :, 5:6]
    flat = replace(reference, quantiles=quantiles)
    for seed, snr in ((1, 30.0), (2, 150.0)):
        spectra = stars(40, seed)
        spectra.snr[:] = snr
        found = shares(flat, spectra)
        assert ((found > 0) & (found <= 1)).all()
        low = replace(spectra, flux=np.ones_like(spectra.flux) * reference.mean)
        assert ((shares(flat, low) >= 0) & (shares(flat, low) <= 1)).all()

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.labels import ELEMENT_POSITIONS, LABELS
from worker.network.model import ApogeeBCNNCensored

Reference = dict[str, NDArray[np.generic]]

#: 1e-5 relative; labels that happen to lie near zero get 1e-6 of the labels' scatter, which is
#: one in normalised units.
RTOL = 1e-5
ATOL_IN_SCATTERS = 1e-6


@pytest.fixture(scope="module")
def outputs(astra_model: ApogeeBCNNCensored, reference: Reference) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return astra_model(astra_model.normalise_input(torch.from_numpy(reference["spectra"])))


def test_normalised_input_equals_astras(
    astra_model: ApogeeBCNNCensored, reference: Reference
) -> None:
    normalised = astra_model.normalise_input(torch.from_numpy(reference["spectra"]))
    assert normalised.dtype == torch.float32
    np.testing.assert_array_equal(normalised.numpy(), reference["normalised_input"])


@pytest.mark.parametrize(("which", "name"), [(0, "det_mean_norm"), (1, "det_logvar_norm")])
def test_deterministic_outputs_equal_astras(
    outputs: tuple[Tensor, Tensor], reference: Reference, which: int, name: str
) -> None:
    expected = reference[name]
    assert expected.std(axis=0).min() > 1e-3  # spectra differ: constants would not pass
    np.testing.assert_allclose(outputs[which].numpy(), expected, rtol=RTOL, atol=ATOL_IN_SCATTERS)


def test_deterministic_labels_in_their_units_equal_astras(
    astra_model: ApogeeBCNNCensored, outputs: tuple[Tensor, Tensor], reference: Reference
) -> None:
    labels = (outputs[0].double() * astra_model.labels_std + astra_model.labels_mean).numpy()
    expected = reference["det_mean"]
    tolerance = RTOL * np.abs(expected) + ATOL_IN_SCATTERS * reference["labels_std"]
    assert (np.abs(labels - expected) <= tolerance).all()


def test_labels_come_in_the_order_that_astra_gives(reference: Reference) -> None:
    assert [label.peer_name for label in LABELS] == reference["targetname"].tolist()


def test_scaling_comes_from_the_checkpoint(
    astra_model: ApogeeBCNNCensored, reference: Reference
) -> None:
    for name in ("input_mean", "labels_mean", "labels_std"):
        np.testing.assert_array_equal(getattr(astra_model, name).numpy(), reference[name])


def test_each_spectrum_is_answered_alone(
    astra_model: ApogeeBCNNCensored, outputs: tuple[Tensor, Tensor], reference: Reference
) -> None:
    with torch.inference_mode():
        alone = astra_model(
            astra_model.normalise_input(torch.from_numpy(reference["spectra"][5:6]))
        )
    for one, all_of_them in zip(alone, outputs, strict=True):
        np.testing.assert_allclose(one[0], all_of_them[5], rtol=RTOL, atol=ATOL_IN_SCATTERS)


@pytest.mark.parametrize("element", [0, 5, 18])
def test_an_element_branch_sees_its_window_alone(
    model: ApogeeBCNNCensored, spectra: NDArray[np.float32], element: int
) -> None:
    spectrum = model.normalise_input(torch.from_numpy(spectra[:1]))
    inside = torch.zeros(spectrum.shape[1], dtype=torch.bool)
    inside[model.window(element)] = True
    layer = model.elem_dense1[element]
    with torch.inference_mode():
        expected = torch.relu(layer(spectrum[:, inside]))
        elsewhere = model.share(torch.where(inside, spectrum, spectrum + 1)).elements[element]
        changed = model.share(torch.where(inside, spectrum + 1, spectrum)).elements[element]
    torch.testing.assert_close(elsewhere, expected)
    assert not torch.allclose(changed, expected)


@pytest.mark.parametrize(
    ("element", "symbol", "pixels"),
    [(0, "C", 3806), (1, "C1", 557), (2, "N", 3776), (13, "TiII", 28), (18, "Ni", 206)],
)
def test_windows_are_those_of_the_elements(
    model: ApogeeBCNNCensored, element: int, symbol: str, pixels: int
) -> None:
    from astroNN.apogee import aspcap_mask

    label = LABELS[ELEMENT_POSITIONS[element]]
    assert label.element == symbol
    wanted = np.flatnonzero(aspcap_mask(symbol, dr=17))
    assert len(wanted) == pixels
    np.testing.assert_array_equal(model.window(element).numpy(), wanted)

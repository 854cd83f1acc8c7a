from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import on_peers_weights
from tests.inputs.keras_folders import keras_folder
from tests.inputs.keras_written import DR16, DR17
from worker.errors import FatalError, UsageError
from worker.labels import LABELS
from worker.network import published
from worker.network.checkpoint import read_checkpoint, write_checkpoint
from worker.network.engines import choose
from worker.network.engines.engine import Engine
from worker.network.keras.convert import convert
from worker.network.model import ApogeeBCNNCensored
from worker.network.published import PUBLISHED, PublishedNetwork
from worker.network.weights.description import describe, normalisation_warning
from worker.network.weights.read import read_weights
from worker.network.weights.verification import Check, simulated_spectrum, verify

BLOB = "model_weights_git_blob_sha1"


def checks_of(path: Path) -> dict[str, Check]:
    checks = list(verify(path, mc_samples=3, seed=1, device="cpu"))
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


@pytest.fixture
def changeable(weights: Path) -> ApogeeBCNNCensored:
    """A network that a test may damage."""
    return read_checkpoint(weights)


def written(tmp_path: Path, model: ApogeeBCNNCensored, **metadata: str) -> Path:
    path = tmp_path / "weights.pt"
    write_checkpoint(path, model, metadata)
    return path


# --- The simulated spectrum ------------------------------------------------------------------


def test_the_simulated_spectrum_follows_its_definition() -> None:
    flux = simulated_spectrum()
    assert flux.shape == (7514,)
    assert flux.dtype == np.float32
    for pixel in (0, 1, 100, 3028, 5000, 7513):
        expected = 1.0
        for k in range(1, 301):
            centre = 7514 * (k * (1 + math.sqrt(5)) / 2 % 1)
            depth = 0.02 + 0.38 * (k * math.sqrt(2) % 1)
            width = 1.5 + 2.5 * (k * math.sqrt(3) % 1)
            expected *= 1 - depth * math.exp(-0.5 * ((pixel - centre) / width) ** 2)
        assert flux[pixel] == pytest.approx(expected, rel=1e-6)


def test_the_simulated_spectrum_looks_like_one() -> None:
    flux = simulated_spectrum()
    assert 0.3 < flux.min() < 0.7
    assert flux.max() <= 1
    assert 0.3 < (flux > 0.99).mean() < 0.9  # continuum between the lines
    minima = (flux[1:-1] < flux[:-2]) & (flux[1:-1] < flux[2:]) & (flux[1:-1] < 0.99)
    assert 200 < minima.sum() <= 300


# --- Checks --------------------------------------------------------------------------------


@on_peers_weights
def test_good_weights_pass_every_check(weights: Path) -> None:
    checks = checks_of(weights)
    assert all(check.passed for check in checks.values())
    assert list(checks) == [
        "loads",
        "origin",
        "windows",
        *("simulated spectrum, no dropout", "simulated spectrum, 3 passes"),
        *("simulated spectrum, repeated", "mean spectrum, no dropout"),
        *("mean spectrum, 3 passes", "mean spectrum, repeated", "speed"),
    ]
    assert "batch of 8, cpu" in checks["speed"].found


@pytest.mark.parametrize("name", [DR17, DR16])
def test_a_folder_and_what_it_is_converted_to_give_the_same_findings(
    tmp_path: Path, name: str
) -> None:
    converted = convert(keras_folder(name))
    path = tmp_path / "weights.pt"
    write_checkpoint(path, converted.model, converted.metadata)
    one, other = checks_of(keras_folder(name)), checks_of(path)
    assert all(check.passed for check in one.values())
    del one["speed"], other["speed"]
    assert one == other


def test_the_mean_spectrum_is_judged_by_the_biases_alone(
    weights: Path, changeable: ApogeeBCNNCensored
) -> None:
    labels, _ = changeable(torch.zeros(1, 7514))
    raw = (labels.double() * changeable.labels_std + changeable.labels_mean)[0]
    found = checks_of(weights)["mean spectrum, no dropout"].found
    assert found == f"finite: teff {raw[0]:.0f}, logg {raw[1]:.2f}, fe_h {raw[19]:.2f}"


def test_weights_that_do_not_load_fail_and_are_not_looked_at_further(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"nothing")
    (check,) = checks_of(path).values()
    assert check == Check(
        "loads",
        False,
        "weights.pt is not a PyTorch checkpoint of plain tensors; it was not loaded.",
    )


def test_weights_that_are_not_there_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file or folder"):
        checks_of(tmp_path / "weights.pt")


def test_labels_that_are_not_finite_are_named(
    tmp_path: Path, changeable: ApogeeBCNNCensored
) -> None:
    changeable.elem_dense_out[2].weight.fill_(2e38)  # the sum of a few overflows
    checks = checks_of(written(tmp_path, changeable))
    for name in ("no dropout", "3 passes"):
        check = checks[f"simulated spectrum, {name}"]
        assert not check.passed
        assert check.found.endswith(": n_h")


def test_labels_that_are_not_learnt_are_named_and_do_not_fail(
    tmp_path: Path, changeable: ApogeeBCNNCensored
) -> None:
    changeable.elem_dense_out[2].weight.fill_(2e38)  # n_h, as above
    changeable.labels_mean[0] = 0.0
    path = tmp_path / "weights.pt"
    write_checkpoint(path, changeable, {"not_learnt": ["teff", "n_h"]})
    checks = checks_of(path)
    assert all(check.passed for check in checks.values())
    assert checks["labels"].found == "2 of 22 labels are not learnt: teff, n_h."
    for name in ("no dropout", "3 passes"):
        assert checks[f"simulated spectrum, {name}"].found.startswith("finite: logg")
    labels = {label.name: label for label in describe(read_weights(path)).labels}
    assert (labels["teff"].mean, labels["teff"].std, labels["teff"].warning) == (None, None, None)
    assert labels["logg"].mean == changeable.labels_mean[1]


def test_uncertainties_that_are_not_positive_are_named(
    tmp_path: Path, changeable: ApogeeBCNNCensored
) -> None:
    changeable.dense_teffloggfeh_var.bias[0] = 1e4  # the logarithm of a variance
    changeable.elem_dense_var[18].bias.fill_(1e4)
    checks = checks_of(written(tmp_path, changeable))
    assert checks["mean spectrum, no dropout"].passed
    assert not checks["mean spectrum, 3 passes"].passed
    assert checks["mean spectrum, 3 passes"].found.endswith("uncertainty: teff, ni_h")


def test_runs_that_differ_in_the_last_bit_fail(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = choose.open_engine, []

    def open_drifting(*arguments: Any, **named: Any) -> Engine:
        opened = original(*arguments, **named)
        infer = opened._infer

        def drifting(*arguments: Any) -> Any:
            calls.append(arguments)
            return [(mean * (1 + 1e-6 * len(calls)), std) for mean, std in infer(*arguments)]

        monkeypatch.setattr(opened, "_infer", drifting)
        return opened

    monkeypatch.setattr(choose, "open_engine", open_drifting)
    checks = checks_of(weights)
    assert not checks["simulated spectrum, repeated"].passed
    assert checks["simulated spectrum, 3 passes"].passed


# --- Windows -------------------------------------------------------------------------------


def test_windows_that_are_not_astronns_are_named(
    tmp_path: Path, changeable: ApogeeBCNNCensored
) -> None:
    changeable.window(4)[0] -= 1
    check = checks_of(written(tmp_path, changeable))["windows"]
    assert check == Check("windows", False, "not astroNN's ASPCAP windows for DR17: na_h")


def test_without_astronn_windows_are_left_alone_and_it_says_what_to_install(
    astra_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "astroNN", None)
    check = checks_of(astra_weights)["windows"]
    assert check.passed is None
    assert "the extra `astronn`" in check.found


# --- Published networks --------------------------------------------------------------------


@pytest.fixture
def dr17_is_published(monkeypatch: pytest.MonkeyPatch) -> PublishedNetwork:
    """As if the peer's folder were a published one."""
    blob = str(convert(keras_folder(DR17)).metadata[BLOB])
    network = PublishedNetwork("DR17", DR17, blob)
    monkeypatch.setattr(published, "PUBLISHED", (network,))
    return network


def test_a_published_folder_is_recognised(dr17_is_published: PublishedNetwork) -> None:
    check = checks_of(keras_folder(DR17))["origin"]
    assert check.passed
    assert check.found == (
        f"the published DR17 network, {DR17}: git blob {dr17_is_published.git_blob_sha1}"
    )


def test_a_checkpoint_tells_which_published_folder_it_comes_from(
    tmp_path: Path, changeable: ApogeeBCNNCensored
) -> None:
    metadata = {"folder": "renamed", BLOB: PUBLISHED[1].git_blob_sha1}
    path = written(tmp_path, changeable, **metadata)
    check = checks_of(path)["origin"]
    assert check.passed
    assert check.found == (
        "converted from the published DR16 network, astroNN_0617_run001, as the file tells: "
        f"git blob {PUBLISHED[1].git_blob_sha1}"
    )
    assert describe(read_weights(path)).published == "DR16"


@pytest.mark.parametrize("network", PUBLISHED, ids=lambda network: network.release)
def test_a_published_name_with_other_content_fails(
    tmp_path: Path, changeable: ApogeeBCNNCensored, network: PublishedNetwork
) -> None:
    path = written(tmp_path, changeable, folder=network.folder, **{BLOB: "0" * 40})
    check = checks_of(path)["origin"]
    assert not check.passed
    assert f"the published {network.release} network, {network.folder}, but" in check.found
    assert network.git_blob_sha1 in check.found
    assert describe(read_weights(path)).published is None


def test_others_are_not_published(weights: Path) -> None:
    check = checks_of(weights)["origin"]
    assert check == Check("origin", True, "not one of the published networks (DR17 and DR16)")


# --- Description ---------------------------------------------------------------------------


def test_a_description_tells_the_network(weights: Path, changeable: ApogeeBCNNCensored) -> None:
    description = describe(read_weights(weights))
    state = changeable.state_dict()
    assert description.architecture == "ApogeeBCNNCensored"
    assert description.parameters == sum(
        value.numel() for key, value in state.items() if key.endswith(("weight", "bias"))
    )
    assert description.dense == (192, 96)
    assert description.elements[0].label == "c_h"
    assert (description.elements[0].pixels, description.elements[0].hidden) == (3806, (256, 64))
    assert description.elements[-1].label == "ni_h"
    assert (description.elements[-1].pixels, description.elements[-1].hidden) == (206, (32, 16))
    assert description.dropout_rate == 0.3
    assert description.dropout_sites == {
        "conv1": 2 * 7514,
        "pool": 7512,
        "dense_1": 192,
        "elem_dense1": 2 * 256 + 17 * 32,
        "elem_dense2": 2 * 64 + 17 * 16,
    }
    assert description.input_mean == (state["input_mean"].min(), state["input_mean"].max())
    assert [label.name for label in description.labels] == [label.name for label in LABELS]
    assert [label.mean for label in description.labels] == state["labels_mean"].tolist()
    assert [label.std for label in description.labels] == state["labels_std"].tolist()
    assert description.bytes == weights.stat().st_size
    assert description.stored_as == "float32"
    assert description.metadata == {}


def test_a_folder_is_described_as_well() -> None:
    description = describe(read_weights(keras_folder(DR16)))
    assert description.dense == (192, 64)
    assert description.file.endswith("model_weights.h5")
    assert description.sha256 == description.metadata["model_weights_sha256"]
    assert not any(label.warning for label in description.labels)


def test_labels_of_dr17_that_missing_values_slipped_into_are_warned_of(
    astra_weights: Path,
) -> None:
    warnings = {
        label.name: label.warning
        for label in describe(read_weights(astra_weights)).labels
        if label.warning is not None
    }
    assert warnings.keys() == {"p_h"}
    assert warnings["p_h"].startswith("training rows near -9999 slipped in, about 0.3% of them")


@pytest.mark.parametrize(
    ("name", "mean", "std", "said"),
    [
        ("teff", 4656.3, 597.8, None),
        ("teff", 8000, 4000, None),
        ("logg", 4.4, 0.9, None),
        ("fe_h", -0.2, 0.3, None),
        ("mg_h", -2.5, 0.1, None),
        ("fe_h", -31.2222, 556.545, "about 0.3% of them"),
        ("teff", 3000, 6000, None),
        ("teff", 0.46, 0.06, "no set of stars"),
        ("fe_h", 30, 500, "no set of stars"),
        ("fe_h", -31, 5, "no set of stars"),
        ("c_h", -99, 1, "no set of stars"),
        ("c_h", -20_000, 100, "no set of stars"),
    ],
)
def test_absurd_normalisation_is_told_from_plausible(
    name: str, mean: float, std: float, said: str | None
) -> None:
    label = next(each for each in LABELS if each.name == name)
    warning = normalisation_warning(label, mean, std)
    assert (warning is None) if said is None else (warning is not None and said in warning)


@pytest.mark.parametrize("share", [0.0005, 0.003, 0.02, 0.2])
def test_the_share_of_missing_values_is_recovered_from_mean_and_scatter(share: float) -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(-0.1, 0.3, 100_000)
    values[: round(share * len(values))] = -9999
    warning = normalisation_warning(LABELS[5], float(values.mean()), float(values.std()))
    assert warning is not None
    assert f"about {share:.1%} of them" in warning


def test_weights_of_which_nothing_can_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"nothing")
    with pytest.raises(FatalError, match="not a PyTorch checkpoint"):
        read_weights(tmp_path / "weights.pt")

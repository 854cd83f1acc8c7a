from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import shared
from tests.inputs.corrections_files import refusal
from worker.errors import UsageError
from worker.labels import LABEL_NAMES, LABELS
from worker.results.noise_model import (
    NoiseModel,
    check_fits,
    identity,
    noise_model_for,
    read_noise_model,
)

Factors = dict[str, dict[str, Any]]

PICKLES = ("AstroNN_corrections.pkl", "AstroNN_corrections_numpy2.pkl")


@pytest.fixture
def expected() -> Factors:
    text = shared("corrections", "AstroNN_corrections.expected.json").read_text()
    factors: Factors = json.loads(text)
    return factors


def factors(**changes: Any) -> Factors:
    """Factors for every label, with some of them replaced; None leaves a label out."""
    plain: Factors = {
        name: {"scale": 1 + n / 8, "offset": n / 100} for n, name in enumerate(LABEL_NAMES)
    }
    return {name: entry for name, entry in (plain | changes).items() if entry is not None}


def write(path: Path, content: Any) -> Path:
    """Write factors in the format of the file's ending."""
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".toml":
        tables = (
            f"[{name}]\n" + "".join(f"{key} = {value!r}\n" for key, value in entry.items())
            for name, entry in content.items()
        )
        path.write_text("\n".join(tables))
    else:
        path.write_bytes(pickle.dumps((content, {"bin_edges": np.arange(3.0)}), protocol=4))
    return path


def assert_factors(model: NoiseModel, wanted: Factors) -> None:
    assert model.scale.tolist() == [wanted[name]["scale"] for name in LABEL_NAMES]
    assert model.offset.tolist() == [wanted[name]["offset"] for name in LABEL_NAMES]


# --- Whose it is ---------------------------------------------------------------------------


def test_a_noise_model_is_for_the_weights_that_it_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("a", "b", "any")}
    for name, file in files.items():
        about = {} if name == "any" else {"about": {"weights_sha256": name}}
        write(file, factors(teff={"scale": 2.0, "offset": len(about)}) | about)
    a, b, for_any = files.values()
    sha256 = {name: read_noise_model(file).sha256 for name, file in files.items()}
    assert noise_model_for("b", [a, b]).sha256 == sha256["b"]
    assert noise_model_for("c", [a, for_any, b]).sha256 == sha256["any"]
    assert noise_model_for("a", [for_any, a]).sha256 == sha256["any"], "the first that fits"
    assert caplog.text == ""
    assert noise_model_for("cd" * 32, [a, b]).sha256 is None
    assert "weights=cdcdcdcdcdcd: no noise model is for them" in caplog.text
    with pytest.raises(UsageError, match=r"a\.json is the noise model of other weights \(a\)"):
        check_fits(read_noise_model(a), a, "cd" * 32)
    check_fits(read_noise_model(for_any), for_any, "cd" * 32)


# --- What is read --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICKLES)
def test_the_peers_pickles_give_the_expected_factors(name: str, expected: Factors) -> None:
    path = shared("corrections", name)
    model = read_noise_model(path)
    assert_factors(model, expected)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("ending", ["json", "toml", "pkl"])
def test_plain_files_give_the_expected_factors(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"corrections.{ending}", factors())
    model = read_noise_model(path)
    assert_factors(model, factors())
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_numbers_are_read_from_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(pickle.dumps((factors(), {}), protocol))
    assert_factors(read_noise_model(path), factors())


@pytest.mark.parametrize("ending", ["json", "toml", "pkl"])
def test_the_peers_names_of_two_labels_are_understood(tmp_path: Path, ending: str) -> None:
    peers = {label.name: label.peer_name for label in LABELS}
    renamed = {peers[name]: entry for name, entry in factors().items()}
    assert {"c1_h", "ti2_h"} == renamed.keys() - set(LABEL_NAMES)
    assert_factors(read_noise_model(write(tmp_path / f"c.{ending}", renamed)), factors())


def test_labels_that_are_none_of_ours_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", factors(cu_h={"scale": 9, "offset": 9}))
    assert_factors(read_noise_model(path), factors())


def test_no_file_is_the_identity() -> None:
    model = read_noise_model(None)
    assert model.sha256 is None
    raw = np.linspace(0.01, 300, 44).reshape(2, 22)
    np.testing.assert_array_equal(model.apply(raw), raw)
    np.testing.assert_array_equal(identity().apply(raw), raw)


def test_apply_scales_and_shifts_each_label_by_its_own_factors(tmp_path: Path) -> None:
    model = read_noise_model(write(tmp_path / "c.json", factors()))
    raw = np.random.default_rng(1).uniform(0.01, 1, (3, 22))
    for row, calibrated in zip(raw, model.apply(raw), strict=True):
        for name, value, result in zip(LABEL_NAMES, row, calibrated, strict=True):
            entry = factors()[name]
            assert result == entry["scale"] * value + entry["offset"]


# --- What is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", b"\x80\x04.", pickle.dumps(factors()), pickle.dumps(None), b"\x80\xff"],
    ids=["empty", "text", "no value", "no pair", "None", "protocol"],
)
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corrections.pkl"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("ending", ["json", "toml", "pkl"])
@pytest.mark.parametrize("name", ["teff", "fe_h", "ti_2_h"])
@pytest.mark.parametrize(
    "entry",
    [None, {"scale": 1.0}, {"offset": 1.0}, {"scale": "one", "offset": 0.0}],
    ids=["no label", "no offset", "no scale", "a word"],
)
def test_a_label_without_factors_is_named(
    tmp_path: Path, ending: str, name: str, entry: dict[str, Any] | None
) -> None:
    path = write(tmp_path / f"corrections.{ending}", factors(**{name: entry}))
    assert f"no scale and offset for {name}" in refusal(path)


@pytest.mark.parametrize(
    ("ending", "entry"),
    [
        ("json", [1.0, 0.0]),
        ("json", {"scale": 10**400, "offset": 0}),
        ("json", {"scale": {}, "offset": None}),
        ("pkl", np.zeros(3)),
        ("pkl", {"scale": np.zeros(2), "offset": 0.0}),
    ],
    ids=["list", "larger than a float", "no numbers", "array", "several numbers"],
)
def test_odd_factors_are_refused(tmp_path: Path, ending: str, entry: Any) -> None:
    path = write(tmp_path / f"corrections.{ending}", factors(teff=entry))
    assert "teff" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("factor", ["scale", "offset"])
@pytest.mark.parametrize("ending", ["json", "toml", "pkl"])
def test_a_factor_that_is_not_finite_is_refused(
    tmp_path: Path, ending: str, factor: str, value: float
) -> None:
    entry = {"scale": 1.0, "offset": 0.0, factor: value}
    path = write(tmp_path / f"corrections.{ending}", factors(mn_h=entry))
    assert "not finite for mn_h" in refusal(path)


@pytest.mark.parametrize("content", ["[1, 2]", '"text"', "null", "7"])
def test_json_that_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "corrections.json"
    path.write_text(content)
    assert "no table of labels" in refusal(path)


@pytest.mark.parametrize("name", ["c.json", "c.toml"])
@pytest.mark.parametrize("content", [b"{", b"= 3", b"\xff\xfe\x00"])
def test_damaged_text_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "cannot be read" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["corrections.yaml", "corrections", "corrections.pkl.gz"])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    assert ".pkl, .json or .toml" in refusal(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "corrections.pkl")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corrections.pkl").mkdir()
    assert "cannot be read" in refusal(tmp_path / "corrections.pkl")


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "corrections.json"
    path.touch()
    os.truncate(path, 2**20 + 1)
    assert "larger than 1 MiB" in refusal(path)

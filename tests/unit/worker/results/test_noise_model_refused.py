"""Noise models that can be read but not used."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import shared
from tests.inputs.corrections_files import refusal
from worker.labels import LABEL_NAMES
from worker.results.noise_model import identity, read_noise_model

Factors = dict[str, dict[str, Any]]


def factors(**changes: Any) -> Factors:
    """Factors for every label, with some of them replaced."""
    plain: Factors = {name: {"scale": 1.0, "offset": 0.0} for name in LABEL_NAMES}
    return plain | changes


# --- Factors that spoil uncertainties --------------------------------------------------------


def test_the_negative_scale_of_the_field_is_refused() -> None:
    assert "scale -1 and offset 0" in refusal(shared("field", "corrections_negative_scale.json"))


@pytest.mark.parametrize(
    "entry",
    [
        {"scale": -1.0, "offset": 0.0},
        {"scale": -1e-9, "offset": 1.0},
        {"scale": 0.0, "offset": 0.0},
        {"scale": 0.0, "offset": -1.0},
        {"scale": 1.0, "offset": -0.02},
        {"scale": 1e-300, "offset": 0.0},
        {"scale": 1e308, "offset": 1e308},
        {"scale": 1.0, "offset": 0.0, "by_snr": {"snr": [9, 99], "factor": [1, 1e-300]}},
        {"scale": 1.0, "offset": 0.0, "by_snr": {"snr": [9, 99], "factor": [1e300, 1]}},
    ],
)
@pytest.mark.parametrize("ending", ["json", "pkl"])
def test_factors_that_spoil_an_uncertainty_are_refused(
    tmp_path: Path, ending: str, entry: dict[str, Any]
) -> None:
    path = tmp_path / f"corrections.{ending}"
    content = factors(mn_h=entry)
    path.write_bytes(
        json.dumps(content).encode() if ending == "json" else pickle.dumps((content, {}))
    )
    assert "cannot be used for mn_h" in refusal(path)


@pytest.mark.parametrize(
    ("scale", "offset"), [(0.0, 0.01), (1.0, -0.019), (1.0, 0.0), (1e-3, 1e-3)]
)
def test_factors_that_leave_uncertainties_positive_are_read(
    tmp_path: Path, scale: float, offset: float
) -> None:
    path = tmp_path / "corrections.json"
    path.write_text(json.dumps(factors(mn_h={"scale": scale, "offset": offset})))
    place = LABEL_NAMES.index("mn_h")
    e_labels = read_noise_model(path).apply(np.full((1, 22), 0.02))
    assert e_labels[0, place] == scale * 0.02 + offset > 0


def test_the_rows_with_a_spoilt_uncertainty_are_found() -> None:
    model = identity()
    raw_e = np.full((5, 22), 0.1)
    e_labels = raw_e.copy()
    raw_e[0, 3] = e_labels[0, 3] = 0.0  # where all passes agree
    for row, value in ((1, 0.0), (2, -0.1), (3, np.inf), (4, np.nan)):
        e_labels[row, 3] = value
    spoilt = model.spoilt(raw_e, e_labels)
    assert list(spoilt) == [1, 2, 3, 4]
    assert spoilt[2] == "e_c_1_h = -0.1, where raw_e is 0.1"


# --- Keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "twin"),
    [
        ("json", '"teff": {"scale": 2, "offset": 0}'),
        ("json", '"fe_h": {"scale": 1, "scale": 2, "offset": 0}'),
        ("toml", "[teff]\nscale = 2\noffset = 0"),
        ("toml", "[mn_h]\nscale = 1\nscale = 2\noffset = 0"),
    ],
)
def test_keys_given_twice_are_refused(tmp_path: Path, ending: str, twin: str) -> None:
    path = tmp_path / f"corrections.{ending}"
    if ending == "json":
        path.write_text(f"{json.dumps(factors())[:-1]}, {twin}}}")
    else:
        tables = (
            f"[{name}]\nscale = {entry['scale']}\noffset = {entry['offset']}"
            for name, entry in factors().items()
            if f"[{name}]" not in twin or name == "teff"
        )
        path.write_text("\n".join([*tables, twin]))
    assert "cannot be read" in refusal(path)


def test_a_label_under_both_its_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corrections.json"
    path.write_text(json.dumps(factors(c1_h={"scale": 1, "offset": 0})))
    assert "gives c_1_h twice" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        "a." * 30_000 + "a = 1",
        f"[{'a.' * 600}a]",
        "# " + "x" * 2**16,
        "x = {" + "a." * 900 + "a = 1}",
    ],
    ids=["long key", "long table", "large", "inline"],
)
def test_toml_that_would_take_minutes_is_not_parsed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "corrections.toml"
    path.write_text(content)
    assert "64 KiB, or a line has over 500 dots" in refusal(path)

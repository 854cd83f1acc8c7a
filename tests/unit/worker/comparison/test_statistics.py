from __future__ import annotations

import numpy as np
import pytest

from worker.comparison.evaluation import Evaluated, half_of
from worker.comparison.parts import parts_of_diagram
from worker.comparison.statistics import group_numbers, numbers_with, pulls
from worker.labels import LABEL_NAMES, LABELS

TEFF, LOGG, FE_H = (LABEL_NAMES.index(name) for name in ("teff", "logg", "fe_h"))


def stars(residuals: list[float], e: list[float]) -> Evaluated:
    """Stars that differ in Teff alone, with these residuals; log g 1 to 5, [Fe/H] is not known."""
    n = len(residuals)
    known, predicted = np.full((2, n, len(LABELS)), np.nan)
    known[:, TEFF], predicted[:, TEFF] = 4200.0, 4200.0 + np.array(residuals)
    known[:, LOGG] = np.linspace(1, 5, n)
    errors = np.full((n, len(LABELS)), np.nan)
    errors[:, TEFF] = e
    return Evaluated(
        predicted=predicted,
        e_predicted=errors,
        known=known,
        snr=np.full(n, 100.0),
        calibrating=np.zeros(n, dtype=bool),
        not_learnt=tuple(name for name in LABEL_NAMES if name != "teff"),
    )


def test_the_numbers_are_those_that_a_hand_finds() -> None:
    evaluated = stars([10, 30, -20, 100, 0], [10, 20, 10, 20, 10])
    numbers = numbers_with(evaluated, 2 * evaluated.e_predicted)
    assert list(numbers) == ["teff"]
    every = numbers["teff"]["by_snr"]["all"]
    # The residuals in order: -20, 0, 10, 30, 100; from their median: 30, 10, 0, 20, 90.
    assert every["n"] == every["n_tested"] == 5
    assert every["bias"] == 10
    assert every["scatter"] == pytest.approx(1.4826 * 20)
    assert every["rms"] == pytest.approx(np.sqrt((100 + 900 + 400 + 10_000 + 0) / 5))
    assert every["median_e"] == 20
    # The pulls: 0.5, 0.75, -1, 2.5, 0; before: 1, 1.5, -2, 5, 0. On the limit is not within it.
    assert every["within_after"] == [0.6, 0.8, 1.0]
    assert every["within_before"] == [0.2, 0.6, 0.8]
    assert every["median_pull"] == 0.5
    assert every["pull_width"] == pytest.approx(1.4826 * 0.5)


def test_giants_and_dwarfs_are_told_apart_by_the_known_gravity() -> None:
    evaluated = stars([10, 30, -20, 100, 0], [10] * 5)  # log g 1, 2, 3, 4, 5
    gravity = numbers_with(evaluated, evaluated.e_predicted)["teff"]["by_part"]["log g"]
    assert {name: each["n"] for name, each in gravity.items()} == {"giants": 3, "dwarfs": 2}
    assert [gravity[name]["bias"] for name in ("giants", "dwarfs")] == [10, 50]


def test_parts_meet_at_their_edges_and_leave_out_what_is_not_known() -> None:
    known = np.full((5, len(LABELS)), np.nan)
    known[:, TEFF] = [3999.9, 4000, 6499, 6500, np.nan]
    known[:, LOGG] = [3.4, 3.5, np.nan, np.nan, np.nan]
    known[:, FE_H] = [-2.0, -1.5, -0.5, 0.0, np.nan]
    parts = parts_of_diagram(known)
    members = {
        part: {name: np.flatnonzero(rows).tolist() for name, rows in groups.items() if rows.any()}
        for part, groups in parts.items()
    }
    assert members == {
        "log g": {"giants": [0], "dwarfs": [1]},
        "Teff (K)": {
            "below 4000": [0],
            "4000 to 4500": [1],
            "5500 to 6500": [2],
            "from 6500": [3],
        },
        "[Fe/H]": {"below -1.5": [0], "-1.5 to -1.0": [1], "-0.5 to 0.0": [2], "from 0.0": [3]},
    }


def test_without_an_uncertainty_there_is_a_residual_and_no_pull() -> None:
    evaluated = stars([10, 20, 30], [10, np.nan, 0])
    numbers = group_numbers(evaluated, evaluated.e_predicted, {"all": np.ones(3, dtype=bool)})
    every = numbers["teff"]["all"]
    assert [every["n"], every["bias"], every["median_pull"]] == [3, 20, 1.0]
    np.testing.assert_array_equal(
        pulls(np.array([1.0, -4.0, 1.0]), np.array([2.0, 2.0, 0.0])), [0.5, -2.0, np.nan]
    )


def test_a_group_without_spectra_has_no_numbers() -> None:
    evaluated = stars([1.0], [1.0])
    numbers = group_numbers(evaluated, evaluated.e_predicted, {"none": np.zeros(1, dtype=bool)})
    of_none = numbers["teff"]["none"]
    assert of_none.pop("n") == of_none.pop("n_tested") == 0
    assert set(of_none.values()) == {None}


def test_every_second_star_calibrates_with_all_its_spectra() -> None:
    assert half_of(["b", "a", "b", "c", "a"]).tolist() == [True, False, True, True, False]

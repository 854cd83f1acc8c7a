from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tests.inputs.repeat_surveys import N_LABELS, survey
from worker.calibration.calibration import chosen, pulls
from worker.calibration.repeats import EDGES, Visits, comparable, pairs_of
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES

FE_H = LABEL_NAMES.index("fe_h")


def random() -> np.random.Generator:
    return np.random.default_rng(3)


def uneven(seed: int = 0) -> Visits:
    """Stars with 1 to 10 visits."""
    visits = survey(seed, 60, 10)
    rank = np.array([(visits.star[:n] == star).sum() for n, star in enumerate(visits.star)])
    return visits.only(rank <= visits.star % 10)


def test_pairs_are_all_of_each_star_and_weigh_its_degrees_of_freedom() -> None:
    visits = comparable(uneven())
    pairs = pairs_of(visits, random())
    found = {
        frozenset(pair) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    }
    assert len(found) == len(pairs.first)
    wanted = set()
    for star in set(visits.star.tolist()):
        places = np.flatnonzero(visits.star == star).tolist()
        assert len(places) > 1  # stars with one visit are gone
        wanted |= {frozenset(pair) for pair in combinations(places, 2)}
        weight = pairs.weight[visits.star[pairs.first] == star]
        np.testing.assert_allclose(weight, 2 / len(places))
    assert found == wanted
    np.testing.assert_array_equal(visits.star[pairs.first], visits.star[pairs.second])


def test_a_star_with_many_visits_has_no_more_than_nine_pairs_for_each() -> None:
    visits = comparable(survey(0, 3, 60))
    pairs = pairs_of(visits, random())
    assert len(pairs.first) == 3 * (9 * 60 - 45)
    np.testing.assert_allclose(np.bincount(pairs.star, pairs.weight), [59, 59, 59])
    each = np.bincount(np.concatenate([pairs.first, pairs.second]))
    assert each.max() == 18  # nine on either side
    other = pairs_of(visits, np.random.default_rng(4))
    assert (np.sort(pairs.first) != np.sort(other.first)).any()


def test_pulls_are_the_obvious_formula() -> None:
    visits = comparable(uneven(1))
    pairs = pairs_of(visits, random())
    found = pulls(visits, pairs, 5, visits.raw_e_labels[:, 5])
    used = chosen(visits, pairs, 5)
    for n, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        difference = visits.labels[i, 5] - visits.labels[j, 5]
        expected = difference / np.sqrt(
            visits.raw_e_labels[i, 5] ** 2 + visits.raw_e_labels[j, 5] ** 2
        )
        assert found[n] == pytest.approx(expected) if used[n] else np.isnan(found[n])


def test_the_edges_of_a_label_are_left_out_by_the_mean_of_the_star() -> None:
    visits = comparable(survey(2, 400, 3))
    pairs = pairs_of(visits, random())
    for position in (0, 7):
        stars = {star: visits.labels[visits.star == star, position].mean() for star in range(400)}
        low, high = np.percentile(list(stars.values()), EDGES)
        inside = {star for star, mean in stars.items() if low <= mean <= high}
        used = chosen(visits, pairs, position)
        assert set(visits.star[pairs.first[used]].tolist()) == inside
    assert len(inside) == 360


@pytest.mark.parametrize("flag", [ResultFlag.NO_RESULT, ResultFlag.UNCERTAIN_TEFF, 1 << 5])
def test_flagged_visits_are_left_out(flag: int) -> None:
    visits = survey(0, 50, 4)
    flags = np.where(visits.observation[:, 0] % 4 == 0, int(flag), 0)
    left = comparable(replace(visits, flags=flags))
    assert len(left) == 150
    assert (left.observation[:, 0] % 4 != 0).all()


def test_uncertain_visits_are_left_out_by_the_uncertainty_that_stands_in_the_table() -> None:
    visits = survey(0, 50, 4)
    e_labels = visits.e_labels.copy()
    e_labels[:30, 0] = 301.0
    left = comparable(replace(visits, e_labels=e_labels))
    assert not set(visits.observation[:30, 0].tolist()) & set(left.observation[:, 0].tolist())


def test_a_flag_that_looks_at_a_label_does_not_cut_differences() -> None:
    """All stars are where [Fe/H] is flagged for every second visit, by its own noise."""
    visits = survey(5, 2000, 2)
    labels, e_labels = visits.labels.copy(), visits.e_labels.copy()
    noise = np.random.default_rng(1).normal(size=len(visits))
    labels[:, FE_H] = -0.25 + 0.03 * noise
    e_labels[:, FE_H] = 0.03
    left = comparable(replace(visits, labels=labels, e_labels=e_labels))
    assert 1500 < len(left) < 2500
    pairs = pairs_of(left, random())
    difference = left.labels[pairs.first, FE_H] - left.labels[pairs.second, FE_H]
    # Visits that are themselves unflagged would differ by 0.6 of this.
    assert np.std(difference) == pytest.approx(0.03 * np.sqrt(2), rel=0.08)


def test_an_observation_counts_once() -> None:
    visits = survey(0, 40, 2)
    observation = visits.observation.copy()
    twice = Visits(*(np.concatenate([each, each]) for each in vars(visits).values()))
    assert len(comparable(twice)) == 80
    # Where it is not known which observation it is, all count.
    unknown = replace(visits, observation=np.full_like(observation, -1))
    assert len(comparable(unknown)) == 80
    # The same night and fiber of another star is another one.
    same = replace(visits, observation=np.tile([[57000, 8]], (80, 1)))
    assert len(comparable(same)) == 0


def test_labels_that_are_no_numbers_are_left_out() -> None:
    visits = survey(0, 40, 3)
    labels = visits.labels.copy()
    labels[0, 4], labels[1, 5] = np.nan, np.inf
    assert len(comparable(replace(visits, labels=labels))) == 118


@pytest.mark.parametrize("rows", [0, 1])
def test_without_repeats_there_is_nothing_to_compare(rows: int) -> None:
    left = comparable(survey(0, 5, 1).only(np.arange(rows)))
    assert len(left) == 0
    assert left.labels.shape == (0, N_LABELS)

"""Repeat visits: which results of a star may be compared, and in which pairs.

Visits of one star differ by their noise alone, so the differences between their labels say what
the uncertainties of labels are worth. Nothing here looks at a difference to decide whether it
counts: what is left out is left out by the mean of the star or by the uncertainty of the visit.
A rule that looks at one visit's label would cut off one side of the differences near its limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.flags import RULES, flag_uncertain

#: Visits of a star are compared with this many others at most, so that pairs grow like visits.
_MOST_APART = 9
#: A label of a star in the outer parts of all stars' is left out: there labels are held back by
#: the range of the training.
EDGES = (5.0, 95.0)
#: The bits of flags that look at a label; the others look at an uncertainty alone.
_BY_LABEL = sum(flag.value for flag, rule in RULES.items() if rule.relative is not None)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Visits:
    """Results of visits.

    Attributes
    ----------
    star
        ``(n,)``: which star it is of, any numbers.
    observation
        ``(n, 2)``: MJD and fiber; -1 where not known.
    snr
        ``(n,)`` S/N per pixel; NaN where not known.
    flags
        ``(n,)`` bits of :class:`worker.flags.ResultFlag`.
    labels, e_labels, raw_e_labels
        ``(n, 22)``: labels, their uncertainties as they stand, and as the network gave them; NaN
        where a label is not learnt.
    """

    star: Integers
    observation: Integers
    snr: Floats
    flags: Integers
    labels: Floats
    e_labels: Floats
    raw_e_labels: Floats

    def __len__(self) -> int:
        return len(self.star)

    def only(self, rows: NDArray[np.bool_] | Integers) -> Visits:
        """Some of the visits."""
        return Visits(*(getattr(self, field.name)[rows] for field in fields(self)))


def comparable(visits: Visits) -> Visits:
    """The unflagged visits of stars that have at least two of them, each observation once.

    They have all labels that any of them has; the others are not learnt.
    The flags of log g and [Fe/H] compare an uncertainty with the label; they are evaluated here
    at the mean of the star.
    """
    finite = np.isfinite(visits.labels)
    learnt = finite.any(axis=0)
    visits = _each_once(visits.only(np.asarray((finite | ~learnt).all(axis=1) & learnt.any())))
    if not len(visits):
        return visits
    number = _numbered(visits.star)
    flags = flag_uncertain(_means(number, visits.labels)[number], visits.e_labels)
    visits = visits.only(((visits.flags & ~_BY_LABEL) == 0) & (flags == 0))
    number = _numbered(visits.star)
    return visits.only(np.bincount(number, minlength=1)[number] > 1)


def _each_once(visits: Visits) -> Visits:
    """Of several results of one observation (copies, other reductions) the first."""
    mjd = visits.observation[:, 0]
    unknown = np.where(mjd < 0, np.arange(len(visits)), -1)
    keys = np.column_stack([visits.star, visits.observation, unknown])
    _, first = np.unique(keys, axis=0, return_index=True)
    return visits.only(np.sort(first))


def _numbered(star: Integers) -> Integers:
    """Stars as numbers from 0."""
    number: Integers = np.unique(star, return_inverse=True)[1]
    return number.reshape(-1)


def _means(number: Integers, labels: Floats) -> Floats:
    """``(stars, 22)``: the mean labels of each star."""
    sums = np.stack([np.bincount(number, column) for column in labels.T], axis=1)
    return sums / np.bincount(number)[:, np.newaxis]


@dataclass(frozen=True)
class Pairs:
    """Pairs of visits of one star.

    Attributes
    ----------
    first, second
        ``(m,)`` positions of the visits.
    star
        ``(m,)`` numbers of the stars, from 0.
    weight
        ``(m,)``: those of a star with n visits sum to n - 1, its degrees of freedom.
    within_edges
        ``(stars, 22)``: whether a star's mean label is in the middle 90 per cent of all stars'.
    """

    first: Integers
    second: Integers
    star: Integers
    weight: Floats
    within_edges: NDArray[np.bool_]


def pairs_of(visits: Visits, random: np.random.Generator) -> Pairs:
    """Pairs of comparable visits: all of a star, up to nine for each visit.

    The visits of a star are taken in random order and compared when they are at most nine
    apart in it, which are all pairs of up to ten visits.
    """
    number = _numbered(visits.star)
    order = np.lexsort((random.random(len(visits)), number))
    ordered = number[order]
    first, second = [], []
    for apart in range(1, _MOST_APART + 1):
        same = np.flatnonzero(ordered[:-apart] == ordered[apart:])
        first.append(order[same])
        second.append(order[same + apart])
    star = number[np.concatenate(first)]
    weight = (np.bincount(number) - 1) / np.bincount(star, minlength=number.max(initial=-1) + 1)
    means = _means(number, visits.labels)
    low, high = np.percentile(means, EDGES, axis=0)
    return Pairs(
        first=np.concatenate(first),
        second=np.concatenate(second),
        star=star,
        weight=weight[star],
        within_edges=(means >= low) & (means <= high),
    )

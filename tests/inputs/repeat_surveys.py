"""Simulated results of repeat visits whose noise is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.calibration.repeats import Visits
from worker.labels import LABEL_NAMES

N_LABELS = len(LABEL_NAMES)
#: What the network's uncertainties are to be multiplied by, and what is to be added, in units of
#: their median. Some offsets are negative.
SCALES = np.linspace(0.5, 2.0, N_LABELS)
SHARES = np.resize([0.5, 0.0, 0.25, -0.1], N_LABELS)


def typical() -> NDArray[np.float64]:
    """``(22,)``: a typical raw uncertainty of each label."""
    return np.where(np.arange(N_LABELS) == 0, 30.0, 0.04)


def offsets() -> NDArray[np.float64]:
    return SHARES * typical()


def survey(
    seed: int,
    stars: int,
    visits: int,
    *,
    outliers: float = 0.0,
    by_snr: Any = lambda snr: np.ones_like(snr),
    varies: float = 0.4,
) -> Visits:
    """Visits of stars whose labels scatter as ``scale * raw_e + offset`` says, times ``by_snr``.

    ``outliers`` is the part of visits that are off by some twenty sigma more, ``varies`` the
    scatter of ``log(raw_e)``.
    """
    random = np.random.default_rng(seed)
    n = stars * visits
    star = np.repeat(np.arange(stars), visits)
    snr = np.exp(random.uniform(np.log(8), np.log(400), n))
    raw_e = typical() * np.exp(varies * random.uniform(-1.7, 1.7, (n, N_LABELS)))
    e_label = (SCALES * raw_e + offsets()) * by_snr(snr)[:, np.newaxis]
    # Far from where flags look at labels.
    middle, range_ = np.full(N_LABELS, -1.5), np.full(N_LABELS, 0.2)
    middle[:2], range_[:2] = (4700.0, 3.0), (300.0, 0.3)
    truth = middle + range_ * random.normal(size=(stars, N_LABELS))
    labels = truth[star] + e_label * random.normal(size=e_label.shape)
    off = random.random(e_label.shape) < outliers
    labels += off * 20 * e_label * random.normal(size=e_label.shape)
    order = random.permutation(n)
    return Visits(
        star=star,
        observation=np.stack([np.arange(n), np.ones(n, dtype=np.int64)], axis=1),
        snr=snr,
        flags=np.zeros(n, dtype=np.int64),
        labels=labels,
        e_labels=0.05 * raw_e,  # so that nothing is flagged
        raw_e_labels=raw_e,
    ).only(order)

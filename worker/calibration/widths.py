"""How wide z is under a noise model: of all pairs and by S/N, before and after a calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from worker.array_types import Floats
from worker.calibration.calibration import pulls, width
from worker.calibration.repeats import Pairs, Visits
from worker.labels import LABELS
from worker.results.noise_model import NoiseModel
from worker.results.snr import known_snr, snr_bins

#: Fewer pairs than this say little about a width.
_LEAST_PAIRS = 20


@dataclass(frozen=True)
class LabelPulls:
    """z of one label's pairs, ``(m,)`` each.

    Attributes
    ----------
    before, after
        With the uncertainties of the network, and with those of the noise model.
    weight
        How much each pair counts.
    snr
        The lower S/N of the two, whose noise is most of z; NaN where not known.
    """

    before: Floats
    after: Floats
    weight: Floats
    snr: Floats

    def widths(self) -> dict[str, tuple[int, float, float]]:
        """Pairs, and the widths before and after: of all and by S/N, where there are enough."""
        bins = {"all": np.ones(len(self.snr), dtype=bool), **snr_bins(self.snr)}
        return {
            name: (
                int(rows.sum()),
                width(self.before[rows], self.weight[rows]),
                width(self.after[rows], self.weight[rows]),
            )
            for name, rows in bins.items()
            if rows.sum() >= _LEAST_PAIRS
        }


def all_pulls(visits: Visits, pairs: Pairs, noise_model: NoiseModel) -> Iterator[LabelPulls]:
    """The pulls of each label, in the order of :data:`worker.labels.LABELS`."""
    e_labels = noise_model.apply(visits.raw_e_labels, visits.snr)
    snr = known_snr(visits.snr)
    lower = np.minimum(snr[pairs.first], snr[pairs.second])
    for position in range(len(LABELS)):
        before = pulls(visits, pairs, position, visits.raw_e_labels[:, position])
        after = pulls(visits, pairs, position, e_labels[:, position])
        used = np.isfinite(before) & np.isfinite(after)
        yield LabelPulls(before[used], after[used], pairs.weight[used], lower[used])

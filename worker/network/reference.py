"""What the spectra of a training are like, to tell how unlike them another is.

Three measures: how unlike the network's answers to the training's spectra its answer is; how much
flux there is that no few components of the training's spectra explain; and how smooth that is, for
lines that they do not have are wider than a pixel and noise is not. What to expect of the last two
follows from the answer and S/N: a giant whose lines are too wide looks like a dwarf that rotates
unless it does. The limits of all three follow from S/N.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats, Singles
from worker.labels import LABELS
from worker.spectra.pixels import N_PIXELS

#: What part of the training's spectra has more than the value of each quantile.
EXCEEDANCES = np.array([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01])
#: The quantiles through which the exponential tails go.
_TAIL = (9, 12)
_HEAD = (1, 2)
_LOGARITHMS = [math.log(share) for share in EXCEEDANCES]
_TAIL_STEPS = math.log(EXCEEDANCES[_TAIL[0]] / EXCEEDANCES[_TAIL[1]])
_HEAD_SHARE = 1 - float(EXCEEDANCES[_HEAD[0]])
_HEAD_STEPS = math.log((1 - EXCEEDANCES[_HEAD[1]]) / _HEAD_SHARE)
#: What part of the false alarms each measure may have.
_SHARES = (0.1, 0.6, 0.3)
N_MEASURES = len(_SHARES)
N_AXES = 5
_FIRST, _SECOND = np.triu_indices(N_AXES + 1)
N_TERMS = 1 + (N_AXES + 1) + len(_FIRST)
_MOST_COMPONENTS, _MOST_PLACES = 128, 64
#: Flux farther from the mean is a fault of a pixel.
_LARGEST_DEVIATION = np.float32(0.5)
#: Answers farther from the mean, in standard deviations, have the expectation of these.
_LARGEST_ANSWER = 3.0
#: No spectrum has less flux that is not explained, or uncertainties below this.
_LEAST = 1e-12
#: No measure of a number exceeds it.
_LARGEST = 1e30
#: float32, which is faster; the others are float64.
_SINGLE = ("mean", "components")


@dataclass(frozen=True)
class Reference:
    """The spectra of a training, in a few numbers.

    An answer is the labels that were learnt, ``l`` of them, and the logarithms of their
    uncertainties, all as the network gives them.

    Attributes
    ----------
    spectra
        ``(1,)`` how many they were.
    mean
        ``(7514,)`` their mean flux.
    components
        ``(k, 7514)`` the orthonormal directions in which they differ most from it.
    learnt
        ``(22,)`` 1 for labels that count in an answer, 0 for others.
    answer_mean, answer_std
        ``(2l,)`` of their answers.
    answer_factor
        ``(2l, 2l)`` turns a difference from the mean into one of unit covariance.
    answer_axes
        ``(5, 2l)`` the directions in which answers in units of ``answer_std`` differ most, in
        units of their standard deviation.
    ln_snr
        ``(3,)`` lowest, highest and mean logarithm of their S/N.
    coefficients
        ``(28, 2)`` of what to expect of the second and third measure.
    snr_places
        ``(p,)`` logarithms of S/N at which the quantiles are known, ascending.
    quantiles
        ``(3, p, 13)`` of the measures at ``EXCEEDANCES``.
    """

    spectra: Floats
    mean: Singles
    components: Singles
    learnt: Floats
    answer_mean: Floats
    answer_std: Floats
    answer_factor: Floats
    answer_axes: Floats
    ln_snr: Floats
    coefficients: Floats
    snr_places: Floats
    quantiles: Floats

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """From arrays by name, as :meth:`arrays` gives them and a file has them.

        Raises
        ------
        ValueError
            They are no reference; the text says why.
        """
        names = [field.name for field in fields(cls)]
        if set(arrays) != set(names):
            raise ValueError(f"its arrays are not {', '.join(names)}")
        types = dict.fromkeys(names, np.float64) | dict.fromkeys(_SINGLE, np.float32)
        given: Any = [np.ascontiguousarray(arrays[name], types[name]) for name in names]
        made = cls(*given)
        made._check()
        return made

    def _check(self) -> None:
        """Refuse arrays that do not fit together, or give no share."""
        k, p, answers = len(self.components), len(self.snr_places), len(self.answer_mean)
        shapes = {
            "spectra": (1,),
            "mean": (N_PIXELS,),
            "components": (k, N_PIXELS),
            "learnt": (len(LABELS),),
            "answer_mean": (answers,),
            "answer_std": (answers,),
            "answer_factor": (answers, answers),
            "answer_axes": (N_AXES, answers),
            "ln_snr": (3,),
            "coefficients": (N_TERMS, N_MEASURES - 1),
            "snr_places": (p,),
            "quantiles": (N_MEASURES, p, len(EXCEEDANCES)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} has values that are not finite")
        if answers == 0 or answers != 2 * np.count_nonzero(self.learnt):
            raise ValueError(f"its answers have {answers} numbers")
        if not 0 < k <= _MOST_COMPONENTS or not 0 < p <= _MOST_PLACES:
            raise ValueError(f"it has {k} components and {p} places in S/N")
        if not (self.answer_std > 0).all() or not self.spectra[0] > 0:
            raise ValueError("answer_std or spectra are not positive")
        near, far = (self.quantiles[:, :, at] for at in _TAIL)
        ascending = (np.diff(self.quantiles) >= 0).all() and (far > near).all()
        if not ascending or (np.diff(self.snr_places) <= 0).any():
            raise ValueError("snr_places or quantiles do not ascend")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def unexplained(self, flux: Singles) -> Floats:
        """``(n, 2)``: for each spectrum the logarithm of what the components leave, and how smooth.

        Parameters
        ----------
        flux
            ``(n, 7514)`` normalised flux.
        """
        return _rows([unexplained(row, self.mean, self.components) for row in flux], 2)

    def p_training(
        self, unexplained: Floats, labels: Floats, e_labels: Floats, snr: Floats
    ) -> Floats:
        """What share of the training's spectra are as unlike the others as each of these.

        Parameters
        ----------
        unexplained
            ``(n, 2)`` from the method of this name.
        labels, e_labels
            ``(n, 22)`` as the network gives them.
        snr
            ``(n,)`` S/N per pixel; NaN where not known, or 0 as DR17 writes it.

        Returns
        -------
        ndarray
            ``(n,)`` shares, NaN where S/N is not known. They depend on nothing but the spectrum
            itself, to the last bit.
        """
        measures = self.measures(unexplained, labels, e_labels, snr)
        quantiles = self._quantiles(self._ln_snr(snr))
        shares = [
            _together([_exceedance(*pair) for pair in zip(*row, strict=True)])
            for row in zip(measures.tolist(), quantiles.tolist(), strict=True)
        ]
        return np.where(snr > 0, np.array(shares, dtype=np.float64), np.nan)

    def measures(
        self, unexplained: Floats, labels: Floats, e_labels: Floats, snr: Floats
    ) -> Floats:
        """``(n, 3)`` measures of some spectra."""
        answers = self.answers(labels, e_labels)
        away = _products(self.answer_factor, answers)
        distance = _products(np.ones((1, away.shape[1])), away * away)
        expected = _products(self.coefficients.T, self.terms(answers, snr))
        found = np.concatenate([distance, unexplained - expected], axis=1)
        return np.asarray(np.nan_to_num(found, nan=_LARGEST), np.float64)

    def answers(self, labels: Floats, e_labels: Floats) -> Floats:
        """``(n, 2l)`` answers less their mean."""
        return answers_of(labels, e_labels, self.learnt) - self.answer_mean

    def terms(self, answers: Floats, snr: Floats) -> Floats:
        """``(n, 28)`` of which expectations are made: 1, answer and S/N, and their products."""
        axes = _products(self.answer_axes, answers / self.answer_std)
        lowest, highest, mean = self.ln_snr
        known = np.clip(self._ln_snr(snr), lowest, highest) - mean
        x = np.column_stack([np.clip(axes, -_LARGEST_ANSWER, _LARGEST_ANSWER), known])
        return np.column_stack([np.ones(len(x)), x, x[:, _FIRST] * x[:, _SECOND]])

    def _ln_snr(self, snr: Floats) -> Floats:
        """Logarithms, the mean one where S/N is not known."""
        mean = float(self.ln_snr[2])
        return np.array([math.log(each) if each > 0 else mean for each in snr.tolist()])

    def _quantiles(self, ln_snr: Floats) -> Floats:
        """``(n, 3, 13)`` quantiles at each S/N."""
        places = len(self.snr_places)
        quantiles = np.zeros((len(ln_snr), *self.quantiles[:, 0].shape))
        for place, row in enumerate(np.eye(places)):
            weight = np.interp(ln_snr, self.snr_places, row)
            quantiles += weight[:, None, None] * self.quantiles[:, place]
        return quantiles


def answers_of(labels: Floats, e_labels: Floats, learnt: Floats) -> Floats:
    """``(n, 2l)`` answers: the labels that were learnt, and the logarithms of their errors."""
    known = np.flatnonzero(learnt)
    # numpy's logarithm depends on where in an array a number stands.
    logarithms = [
        [math.log(max(each, _LEAST)) for each in row] for row in e_labels[:, known].tolist()
    ]
    return np.column_stack([labels[:, known], _rows(logarithms, len(known))])


def deviations(flux: Singles, mean: Singles) -> Singles:
    """What flux differs from the mean by; nothing where it has no data, which reads exactly 1."""
    away = flux - mean
    np.clip(away, -_LARGEST_DEVIATION, _LARGEST_DEVIATION, out=away)
    away[flux == 1] = 0
    return away


def unexplained(flux: Singles, mean: Singles, components: Singles) -> tuple[float, float]:
    """The logarithm of what the components leave of one spectrum, and how smooth that is."""
    away = deviations(flux, mean)
    # No BLAS: its sums depend on the number of its threads.
    along = np.einsum("kp,p->k", components, away)
    left = away - np.einsum("kp,k->p", components, along)
    power = float(np.einsum("p,p->", left, left))
    if not power > _LEAST:  # NaN is not either
        return (math.log(_LEAST) if power <= _LEAST else math.nan), 0.0
    return math.log(power), float(np.einsum("p,p->", left[1:], left[:-1])) / power


def _products(matrix: Floats, rows: Floats) -> Floats:
    """``(n, m)`` product of a matrix with each row, which depends on no other row."""
    products = np.zeros((len(rows), len(matrix)))
    for column, values in zip(matrix.T, rows.T, strict=True):
        products += values[:, None] * column
    return products


def _rows(rows: list[Any], width: int) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _together(shares: list[float]) -> float:
    """The chance that any of three independent measures is as rare as the rarest of these.

    Tippett's method of combining tests, with weights: no more false alarms than the flag says,
    and spectra that are ordinary in all measures keep their order.
    """
    rarest = min(share / part for share, part in zip(shares, _SHARES, strict=True))
    alarms = [part * rarest for part in _SHARES]
    if max(alarms) >= 1:
        return 1.0
    return -math.expm1(sum(math.log1p(-each) for each in alarms))


def _exceedance(value: float, quantiles: list[float]) -> float:
    """What share of the training's spectra has more than this, given their quantiles.

    Beyond the outer ones it falls, or nears 1, exponentially: none is as odd as all others.
    """
    near, far = (quantiles[at] for at in _TAIL)
    if value > far:
        return math.exp(_LOGARITHMS[-1] - _TAIL_STEPS * (value - far) / (far - near))
    first, second = (quantiles[at] for at in _HEAD)
    if value < first and second > first:
        return 1 - _HEAD_SHARE * math.exp(-_HEAD_STEPS * (first - value) / (second - first))
    above = min(max(bisect_right(quantiles, value), 1), len(quantiles) - 1)
    low, high = quantiles[above - 1], quantiles[above]
    part = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 1.0
    return math.exp(_LOGARITHMS[above - 1] + part * (_LOGARITHMS[above] - _LOGARITHMS[above - 1]))

"""Labels of the stars that the models of real spectra are asked for.

They fill the part of the diagram in which each model holds, more evenly than the sky does, so
that a network learns its borders too.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from producer.simulation.population import dwarfs, giants
from producer.simulation.star_models import Model
from producer.simulation.star_models.spectra import numbers
from worker.array_types import Floats
from worker.labels import LABEL_NAMES

#: Abundances that [alpha/Fe] stands for in the models.
ALPHA = ("o_h", "mg_h", "si_h", "s_h", "ca_h", "ti_h")
FE_H_RANGE = (-1.5, 0.4)
#: Part of the stars that lie anywhere in a model's range; the others lie where stars do.
_ANYWHERE = 0.3
#: The lower, the more stars are rich in metals.
_METAL_RICH = 0.7
#: Ranges of the dwarfs (the model's own, with the broadening up to 45 km/s) and of the
#: synthetic spectra.
_DWARFS = np.array([[4210, 4.01, -0.78, -0.12, 0.0], [6980, 4.95, 0.37, 0.38, 45.0]])
_SYNTHETIC = np.array([[3540, 0.35, -0.98, -0.15], [6970, 4.8, 0.40, 0.45]])
#: What the synthetic spectra's scale has beyond that of the models fitted to real stars: fits of
#: synthetic spectra to these find giants 0.37 dex and dwarfs 0.07 dex denser, and [alpha/Fe] 0.06
#: dex lower. Spectroscopic gravities of giants are known to exceed seismic ones (Holtzman et al.
#: 2015, AJ 150, 148, section 5.2).
_GRAVITY_EXCESS = ((3.5, 4.3), (0.37, 0.07))
_ALPHA_LACK = 0.06
#: Cooler giants of theirs are few, and 130 K hotter than the survey has them now.
_COOLEST_GIANT = 3900.0
#: Parts of them; the others are dwarfs, which have a model of their own.
_SYNTHETIC_GIANTS, _SUBGIANTS = 0.60, 0.10
#: How far stars lie beside those that the giants' model was made of.
_GIANT_SPREAD = np.array([40.0, 0.10, 0.04, 0.025])
#: How much rare log g are preferred: 0 as the stars come, 1 all alike.
_EVENLY = 0.9


def draw_parameters(model: Model, uniform: Floats, normal: Floats) -> Floats:
    """The parameters of one star from its ``(6,)`` uniform and ``(30,)`` normal numbers."""
    return _DRAWN[model](uniform, normal)


def labels_of(model: Model, parameters: Floats) -> Floats:
    """The 22 labels of a star, ``(22,)``; NaN for those that the models do not know."""
    teff, logg, fe_h, alpha = parameters[:4]
    if model == Model.SYNTHETIC:
        logg -= np.interp(logg, *_GRAVITY_EXCESS)
        alpha += _ALPHA_LACK
    known = {"teff": teff, "logg": logg, "fe_h": fe_h, **dict.fromkeys(ALPHA, fe_h + alpha)}
    return np.array([known.get(name, np.nan) for name in LABEL_NAMES])


def _dwarf(uniform: Floats, normal: Floats) -> Floats:
    lowest, highest = _DWARFS
    drawn = lowest + uniform[:5] ** (1, 1, _METAL_RICH, 1, 1) * (highest - lowest)
    if uniform[5] > _ANYWHERE:
        teff, logg = dwarfs(0.2 + 0.8 * uniform[:1], uniform[1:2], 2 * normal[:1])
        hot = max(teff[0] - 5600.0, 0.0) / 1000.0
        broadening = -(3.0 + 9.0 * hot) * np.log1p(-uniform[4])
        drawn = np.array(
            [teff[0], logg[0], drawn[2], _alpha(drawn[2], uniform, normal), broadening]
        )
    return np.asarray(np.clip(drawn, lowest, highest))


def _giant(uniform: Floats, normal: Floats) -> Floats:
    labels, chances = _giants_of_the_model()
    star = min(int(np.searchsorted(chances, uniform[0])), len(labels) - 1)
    drawn = labels[star] + _GIANT_SPREAD * normal[:4]
    return np.asarray(np.clip(drawn, labels.min(axis=0), labels.max(axis=0)))


def _synthetic(uniform: Floats, normal: Floats) -> Floats:
    lowest, highest = _SYNTHETIC
    fe_h = lowest[2] + uniform[2] ** _METAL_RICH * (highest[2] - lowest[2])
    alpha = _alpha(fe_h, uniform, normal)
    metals = np.array([fe_h]), np.array([alpha])
    if uniform[5] < _SYNTHETIC_GIANTS:
        teff, logg = giants(uniform[:1], uniform[1:2] ** 2, 1.8 * normal[:1], *metals)
    else:
        teff, logg = dwarfs(0.125 + 0.875 * uniform[:1], uniform[1:2], 2 * normal[:1])
        if uniform[5] > 1 - _SUBGIANTS:  # on their way from the main sequence to the giant branch
            teff, logg = 4700 + 1900 * uniform[:1], 3.2 + 1.1 * uniform[1:2]
    drawn = np.array([teff[0], logg[0] + 0.08 * normal[1], fe_h, alpha])
    return np.asarray(np.clip(drawn, lowest, highest))


def _alpha(fe_h: float, uniform: Floats, normal: Floats) -> float:
    """[alpha/Fe] of either sequence, or of neither."""
    if uniform[3] < _ANYWHERE:
        return float(-0.1 + 0.45 * uniform[3] / _ANYWHERE)
    low = 0.02 - 0.10 * fe_h
    high = min(0.19 - 0.18 * (fe_h + 0.3), 0.32)
    return float((low if uniform[3] < 0.65 else high) + 0.04 * normal[2])


@cache
def _giants_of_the_model() -> tuple[Floats, Floats]:
    """The stars that the giants' model was made of, and their summed chances to be drawn."""
    labels = np.asarray(numbers("giants")["training_labels"], dtype=np.float64)
    labels = labels[(labels[:, 2] >= FE_H_RANGE[0]) & (labels[:, 2] <= FE_H_RANGE[1])]
    labels = labels[labels[:, 0] >= _COOLEST_GIANT]
    _, bins, counts = np.unique(labels[:, 1] // 0.25, return_inverse=True, return_counts=True)
    chances = counts[bins] ** -_EVENLY
    return labels, np.cumsum(chances / chances.sum())


_DRAWN = {Model.DWARFS: _dwarf, Model.GIANTS: _giant, Model.SYNTHETIC: _synthetic}

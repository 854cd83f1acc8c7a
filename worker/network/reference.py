"""What the spectra of a training are like, to tell how unlike them another is.

Two measures: how far a spectrum lies from the training's mean within the directions in which the
training's spectra differ, in units of their scatter; and how much of it lies in no such direction.
Their quantiles among the training's spectra depend on S/N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats, Singles
from worker.spectra.pixels import N_PIXELS

#: What part of the training's spectra has at most the value of each quantile.
LEVELS = np.concatenate([np.linspace(0, 0.9, 19), np.linspace(0.91, 0.99, 9)])
N_MEASURES = 2
_MOST_COMPONENTS, _MOST_PLACES = 128, 64
#: float32, which is faster; the others are float64.
_SINGLE = ("mean", "scale", "components")
#: A measure that no spectrum of finite flux exceeds.
_LARGEST = 1e30


@dataclass(frozen=True)
class Reference:
    """The spectra of a training, in a few numbers.

    Attributes
    ----------
    mean, scale
        ``(7514,)`` mean flux of the training's spectra, and what each pixel is divided by.
    components
        ``(k, 7514)`` orthonormal directions in which they differ.
    deviations
        ``(k,)`` their standard deviations along these.
    snr
        ``(p,)`` S/N per pixel at which the quantiles are known, ascending.
    quantiles
        ``(2, p, q)`` of the two measures at ``LEVELS``, ascending.
    tails
        ``(2, p)`` by how much the measures grow where their share beyond the last quantile falls
        by a factor e.
    spectra
        ``(1,)`` how many they were.
    """

    mean: Singles
    scale: Singles
    components: Singles
    deviations: Floats
    snr: Floats
    quantiles: Floats
    tails: Floats
    spectra: Floats

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
        k, p = len(self.components), len(self.snr)
        shapes = {
            "mean": (N_PIXELS,),
            "scale": (N_PIXELS,),
            "components": (k, N_PIXELS),
            "deviations": (k,),
            "snr": (p,),
            "quantiles": (N_MEASURES, p, len(LEVELS)),
            "tails": (N_MEASURES, p),
            "spectra": (1,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} has values that are not finite")
        for name in ("scale", "deviations", "snr", "tails", "spectra"):
            if not (getattr(self, name) > 0).all():
                raise ValueError(f"{name} has values that are not positive")
        if not 0 < k <= _MOST_COMPONENTS or not 0 < p <= _MOST_PLACES:
            raise ValueError(f"it has {k} components and {p} places in S/N")
        if (np.diff(self.snr) <= 0).any() or (np.diff(self.quantiles) < 0).any():
            raise ValueError("snr or quantiles do not ascend")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps: half precision is enough for the components."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        kept["components"] = self.components.astype(np.float16)
        return {name: np.ascontiguousarray(array) for name, array in kept.items()}

    def p_training(self, flux: Singles, snr: Floats | None = None) -> Floats:
        """What share of the training's spectra are as unlike the others as each of these.

        Parameters
        ----------
        flux
            ``(n, 7514)`` normalised flux.
        snr
            ``(n,)`` S/N per pixel. Where it is not known (NaN, or 0 as DR17 writes it), or not
            given, the share is that at the S/N where it is largest.

        Returns
        -------
        ndarray
            ``(n,)`` shares, which depend on nothing but the spectrum itself, to the last bit.
        """
        known = np.full(len(flux), np.nan) if snr is None else snr
        values = self.measures(flux)
        shares = np.stack(
            [self._at(self._shares(i, values[:, i]), known) for i in range(N_MEASURES)]
        )
        smallest: Floats = shares.min(axis=0)
        return np.minimum(1.0, N_MEASURES * smallest)

    def measures(self, flux: Singles) -> Floats:
        """``(n, 2)`` the two measures of some spectra."""
        return np.array([self._measures(row) for row in flux]).reshape(len(flux), N_MEASURES)

    def _measures(self, flux: Singles) -> Floats:
        """The two measures of one spectrum.

        No BLAS, whose sums depend on the number of its threads.
        """
        scaled = (flux - self.mean) / self.scale
        along = np.einsum("kp,p->k", self.components, scaled).astype(np.float64)
        whole = float(np.einsum("p,p->", scaled, scaled, dtype=np.float64))
        outside = max(0.0, whole - float(np.einsum("k,k->", along, along)))
        inside = float(np.einsum("k,k->", *[along / self.deviations] * 2))
        found = np.sqrt([inside / len(along), outside / N_PIXELS])
        return np.nan_to_num(found, nan=_LARGEST, posinf=_LARGEST)

    def _shares(self, measure: int, values: Floats) -> Floats:
        """``(n, p)`` share of the training's spectra with at least these values, by S/N."""
        shares = []
        for quantiles, tail in zip(self.quantiles[measure], self.tails[measure], strict=True):
            beyond = np.maximum(values - quantiles[-1], 0.0) / tail
            shares.append((1 - np.interp(values, quantiles, LEVELS)) * np.exp(-beyond))
        return np.stack(shares, axis=1)

    def _at(self, shares: Floats, snr: Floats) -> Floats:
        """Shares at each S/N: linear in its logarithm, the largest where it is not known."""
        places = np.log(self.snr)
        return np.array(
            [
                np.interp(math.log(value), places, row) if value > 0 else row.max()
                for value, row in zip(snr, shares, strict=True)
            ]
        )

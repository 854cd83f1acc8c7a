"""All pictures of many results, by the names of their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.pictures.flag_table import flags
from worker.pictures.planes import kiel, magnesium, planes
from worker.pictures.sample import Sample
from worker.pictures.scatter import repeats, uncertainties
from worker.pictures.style import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture: how it is drawn, and what it shows, in a line."""

    draw: Callable[[Sample, Theme], Figure]
    caption: str


GALLERY: dict[str, Picture] = {
    "kiel": Picture(kiel, "Kiel diagram, coloured by [Fe/H]"),
    "magnesium": Picture(magnesium, "[Mg/Fe] against [Fe/H], coloured by log g"),
    "planes": Picture(planes, "[X/Fe] against [Fe/H] of every element"),
    "uncertainties": Picture(uncertainties, "Uncertainty of each label against S/N"),
    "repeats": Picture(repeats, "Visit-to-visit scatter of each label, beside its uncertainty"),
    "flags": Picture(flags, "Fraction of the spectra with each flag, by S/N"),
}

"""Writing simulated apStar files: a header, seven images, LSF coefficients and velocities.

astropy writes every byte, but building ten HDUs anew takes it 30 ms. So the HDUs of a kind of
file (a layout and a number of visits) are built and verified once; a star's numbers are put into
their arrays and cards, and the list is written again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from producer.simulation.headers import (
    Card,
    primary_cards,
    template,
    velocity_errors,
    wavelength_cards,
)
from producer.simulation.layouts import Planes
from producer.simulation.names import visit_names
from producer.simulation.observation import Layout, Star, Visits

_UNIT = "(10^-17 erg/s/cm^2/Ang)"
#: BUNIT and SDSS-V's name of HDU 1 to 7.
_IMAGES = (
    (f"Flux {_UNIT}", "FLUX"),
    (f"Error {_UNIT}", "ERROR"),
    ("Flag Mask (bitwise)", "MASK"),
    (f"Sky {_UNIT}", "SKY FLUX"),
    (f"Sky error {_UNIT}", "SKY ERROR"),
    ("Telluric", "TELLURIC"),
    ("Telluric error", "TELLURIC ERROR"),
)
#: Coefficients for LSF_GH as DR12-16 keep them: here a Gaussian of 1.3 pixels without wings.
_LSF = np.array([1, 4287, 5, 1, 1, 1, 1, 1, 0, 1.3, *[0] * 10, 1, 2, 0, 0, 0, 0], dtype=np.float64)
#: Kinds of file whose HDUs are kept: one of a hundred visits takes 50 MB.
_MOST_KINDS = 12


class StarWriter:
    """Writes star files; one for a process, so that its HDUs are built once."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Layout, int, bool], _Kind] = {}

    def write(self, path: Path, star: Star, visits: Visits, layout: Layout, planes: Planes) -> int:
        """Write a star's file; readers see the old one, or none, until the new one is whole.

        Parameters
        ----------
        path
            Where; its folder is made if it is not there.
        planes
            What :func:`producer.simulation.layouts.encode` makes of the visits.

        Returns
        -------
        int
            The size of the file in bytes.
        """
        cards = list(primary_cards(star, visits, layout, planes))
        tables = velocity_tables(star, visits, layout)
        key = (layout, len(visits.snr), star.model is None)
        if key not in self._kinds:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.pop(next(iter(self._kinds)))  # the oldest
            self._kinds[key] = _Kind(layout, cards, planes, tables)
        kind = self._kinds[key]
        kind.fill(cards, planes, tables)
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            kind.hdus.writeto(hidden, output_verify="ignore", overwrite=True)  # it was verified
            size = hidden.stat().st_size
            hidden.replace(path)
        finally:
            hidden.unlink(missing_ok=True)
        return size


class _Kind:
    """The HDUs of files that differ in their numbers alone."""

    def __init__(
        self, layout: Layout, cards: list[Card], planes: Planes, tables: list[NDArray[Any]]
    ) -> None:
        self.hdus = star_hdus(layout, cards, planes, tables)
        self.hdus.verify("exception")
        self._cards = list(self.hdus[0].header.cards)[-len(cards) :]
        self._images = [hdu.data for hdu in self.hdus[1:8]]
        self._tables = [hdu.data for hdu in self.hdus[9:]]

    def fill(self, cards: list[Card], planes: Planes, tables: list[NDArray[Any]]) -> None:
        """Put a star's numbers into the HDUs."""
        for card, (keyword, value, _) in zip(self._cards, cards, strict=True):
            if keyword != "COMMENT":
                card.value = value
        for image, plane in zip(self._images, planes.images(), strict=True):
            image[...] = plane
        for rows, table in zip(self._tables, tables, strict=True):
            for name in table.dtype.names or ():
                rows[name][...] = table[name]


def star_hdus(
    layout: Layout, cards: Iterable[Card], planes: Planes, tables: Iterable[NDArray[Any]]
) -> fits.HDUList:
    """The HDUs of a star's file, built anew."""
    primary = fits.PrimaryHDU(header=fits.Header(list(cards)))
    images = [
        fits.ImageHDU(image.astype(image.dtype.newbyteorder(">")), _image_header(n, layout))
        for n, image in enumerate(planes.images())
    ]
    hdus = fits.HDUList([primary, *images, _lsf(layout), *map(fits.BinTableHDU, tables)])
    if layout == "sdss5":
        hdus[8].header["EXTNAME"], hdus[9].header["EXTNAME"] = "LSF TABLE", "RV TABLE"
    hdus.update_extend()
    return hdus


def velocity_tables(star: Star, visits: Visits, layout: Layout) -> list[NDArray[Any]]:
    """The tables of HDU 9 and, in DR17, 10: a part of the columns that the real ones have.

    DR12-16 have one row with an entry per visit in each column, the others a row per visit; HDU
    10 is the same for the coadd.
    """
    if layout == "dr13":
        return [_velocities_in_a_row(star, visits)]
    helio = "vheliobary" if layout == "sdss5" else "vhelio"
    columns = ("jd", "snr", helio, "vrel", "vrelerr", "teff", "logg", "feh", "bc")
    kind = np.dtype([("filename", "S72"), *((name, "f8") for name in columns)])
    names = visit_names(star, visits, layout)
    relative, errors = star.v_helio - visits.barycentric, velocity_errors(visits)
    table = np.zeros(len(names), kind)
    values = (visits.jd, visits.snr, star.v_helio, relative, errors, *template(star))
    for name, value in zip(columns, (*values, visits.barycentric), strict=True):
        table[name] = value
    table["filename"] = names
    if layout == "sdss5":
        return [table]
    combined = table[:1].copy()  # in the rest frame, so at velocity 0
    for name in ("vhelio", "vrel", "bc"):
        combined[name] = 0.0
    return [table, combined]


def _velocities_in_a_row(star: Star, visits: Visits) -> NDArray[Any]:
    count = len(visits.snr)
    shape = () if count == 1 else (count,)
    columns: dict[str, tuple[str, Any]] = {
        "FILE": ("S30", visit_names(star, visits, "dr13")),
        "FIBER": ("i2", visits.fiber),
        "PLATE": ("S4", visits.plate.astype("U4")),
        "MJD": ("i4", visits.mjd),
        "LOCID": ("i2", star.location),
        "JD": ("f8", visits.jd),
        "VREL": ("f4", star.v_helio - visits.barycentric),
        "VRELERR": ("f4", velocity_errors(visits)),
        "VHELIO": ("f4", star.v_helio),
        "BC": ("f4", visits.barycentric),
    }
    of_star = dict(zip(("TEFF", "LOGG", "FEH"), template(star), strict=True))
    kind = [(name, form, shape) for name, (form, _) in columns.items()]
    table = np.zeros(1, np.dtype([*kind, *((name, "f4") for name in of_star)]))
    for name, (_, value) in columns.items():
        table[name] = value
    for name, number in of_star.items():
        table[name] = number
    return table


def _image_header(n: int, layout: Layout) -> fits.Header:
    unit, name = _IMAGES[n]
    header = fits.Header([(key, value) for key, value, _ in wavelength_cards()])
    header["BUNIT"] = unit
    if layout == "sdss5":
        header["EXTNAME"] = name
    return header


def _lsf(layout: Layout) -> fits.ImageHDU:
    """HDU 8; the Python reductions leave it empty."""
    if layout != "dr13":
        return fits.ImageHDU()
    header = fits.Header({"CTYPE1": "Parameters", "BUNIT": "LSF Coefficients"})
    return fits.ImageHDU(_LSF.astype(">f8"), header)

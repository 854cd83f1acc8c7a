"""Writes apStar files of every era from scratch, so that tests know what is in them.

``docs`` call the layouts by data release: ``dr13`` stands for DR12-16 (IDL), ``dr17`` for DR17
and ``sdss5`` for SDSS-V.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

Era = Literal["dr13", "dr17", "sdss5"]
ERAS: tuple[Era, ...] = ("dr13", "dr17", "sdss5")

N_PIXELS = 8575
#: The detectors' windows, typed anew: a test shall not take them from the code that it tests.
WINDOWS = {"blue": slice(246, 3274), "green": slice(3585, 6080), "red": slice(6344, 8335)}
_REDUCTIONS: dict[Era, str] = {"dr13": "r6", "dr17": "dr17", "sdss5": "1.3"}
#: How far beyond its window a detector reaches; the radial velocity shifts its ends.
_MARGIN = 40
#: A pixel without data, as (flux, error, mask), in coadds and in visits.
_NO_DATA_COADD: dict[Era, tuple[float, float, int]] = {
    "dr13": (0.0, 1e10, 1),
    "dr17": (np.nan, np.nan, 0),
    "sdss5": (np.nan, 0.0, 0),
}
_NO_DATA_VISIT: dict[Era, tuple[float, float, int]] = {
    "dr13": (0.0, 1e10, 1),
    "dr17": (0.0, 0.0, 0),
    "sdss5": (0.0, 0.0, 0),
}


@dataclass
class Planes:
    """The first three images, a row per spectrum; an ``edit`` changes them before writing."""

    flux: NDArray[Any]
    error: NDArray[Any]
    mask: NDArray[Any]


@dataclass(frozen=True)
class Written:
    """A file and what was written into it, with a first axis of rows even if the file has none."""

    path: Path
    visits: tuple[str, ...]
    planes: Planes

    def row_of(self, member: str) -> int:
        """The row in which a coadd or a visit lies."""
        if member == "coadd" or len(self.visits) == 1:
            return 0
        return 2 + self.visits.index(member)


def object_name(seed: int) -> str:
    return f"2M{seed:08d}+0000000"


def apstar_name(era: Era, obj: str, telescope: str = "apo25m") -> str:
    if era == "sdss5":
        return f"apStar-{_REDUCTIONS[era]}-{telescope}-{obj}.fits"
    prefix = "as" if telescope == "lco25m" else "ap"
    return f"{prefix}Star-{_REDUCTIONS[era]}-{obj}.fits"


def visit_name(era: Era, number: int, seed: int = 0, telescope: str = "apo25m") -> str:
    """The apVisit file of visit 1, 2, ...: plate 6000 + seed, MJD 56000 + number."""
    where = f"{telescope}-" if era == "sdss5" else ""
    prefix = "as" if telescope == "lco25m" and era != "sdss5" else "ap"
    plate, mjd, fiber = 6000 + seed, 56000 + number, 10 + number
    return f"{prefix}Visit-{_REDUCTIONS[era]}-{where}{plate}-{mjd}-{fiber:03d}.fits"


def write_apstar(
    path: Path,
    *,
    era: Era = "dr13",
    n_visits: int = 2,
    seed: int = 0,
    snr: float = 100.0,
    telescope: str = "apo25m",
    edit: Callable[[Planes], None] | None = None,
    cards: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    n_hdus: int | None = None,
) -> Written:
    """Write an apStar file; a path that ends in ``.gz`` is compressed.

    The same arguments give the same file. ``seed`` chooses the star: its name, its spectrum and
    the noise. ``edit`` changes the rows, ``cards`` adds or replaces cards of the primary header,
    ``without`` leaves cards out, ``n_hdus`` stops early (10 are whole, DR17 has 11).
    """
    planes = synthetic_planes(era, n_visits, seed, snr)
    if edit is not None:
        edit(planes)
    header = _header(era, n_visits, seed, snr, telescope)
    header.update(cards or {})
    for key in without:
        del header[key]
    images = [planes.flux, planes.error, planes.mask]
    if era == "dr13" and n_visits == 1:
        images = [image[0] for image in images]
    hdus = [
        fits.PrimaryHDU(header=header),
        *map(fits.ImageHDU, images),
        *(fits.ImageHDU(np.zeros(10, dtype=np.float32)) for _ in range(4)),
        fits.ImageHDU(np.zeros(26)),
        *(_radial_velocities() for _ in range(2 if era == "dr17" else 1)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus[:n_hdus]).writeto(path, overwrite=True)
    visits = tuple(visit_name(era, n, seed, telescope) for n in range(1, n_visits + 1))
    return Written(path, visits, planes)


def synthetic_planes(era: Era, n_visits: int, seed: int, snr: float = 100.0) -> Planes:
    """A smooth continuum with absorption lines, noise and bad pixels, in the era's layout."""
    rng = np.random.default_rng([seed, n_visits])
    star = _star(rng)
    covered = np.stack([_coverage(int(rng.integers(-20, 21))) for _ in range(n_visits)])
    noise = rng.normal(size=covered.shape)
    error = np.broadcast_to(star / snr, covered.shape) * rng.uniform(0.8, 1.2, covered.shape)
    visits = Planes(star + noise * error, error, _bad_pixels(rng, covered.shape))
    if era == "dr17":
        visits.error[(visits.mask & 0xFF) != 0] *= 1e10

    weight = np.where(covered, visits.error**-2, 0.0)
    with np.errstate(all="ignore"):
        flux = (weight * visits.flux).sum(axis=0) / weight.sum(axis=0)
        coadd_error = weight.sum(axis=0) ** -0.5
    in_coadd = covered.any(axis=0) if era == "dr13" else covered.all(axis=0)
    _leave_out(visits, ~covered, _NO_DATA_VISIT[era])
    all_or, all_and = (f.reduce(visits.mask, axis=0) for f in (np.bitwise_or, np.bitwise_and))
    second = all_and if era == "dr13" else np.zeros_like(all_and)
    coadds = Planes(
        np.stack([flux, flux * 1.001]),
        np.stack([coadd_error, coadd_error * 1.001]),
        np.stack([all_or if era == "dr13" else all_and, second]),
    )
    _leave_out(coadds, np.stack([~in_coadd] * 2), _NO_DATA_COADD[era], keep_mask=era == "dr13")
    return _as_written(era, coadds, visits)


def _as_written(era: Era, coadds: Planes, visits: Planes) -> Planes:
    float_type, mask_type = ("f4", "i2") if era == "dr13" else ("f8", "i8")

    def rows(coadd: NDArray[Any], visit: NDArray[Any]) -> NDArray[Any]:
        if len(visit) > 1:
            return np.concatenate([coadd, visit])
        # DR17 keeps a second row, of zeros, beside the only visit.
        return np.stack([coadd[0], np.zeros(N_PIXELS)]) if era == "dr17" else coadd[:1]

    return Planes(
        rows(coadds.flux, visits.flux).astype(float_type),
        rows(coadds.error, visits.error).astype(float_type),
        rows(coadds.mask, visits.mask).astype(mask_type),
    )


def _star(rng: np.random.Generator) -> NDArray[np.float64]:
    x = np.linspace(-1, 1, N_PIXELS)
    level, slope, curve = rng.uniform(100, 400), rng.uniform(-0.2, 0.2), rng.uniform(-0.05, 0.05)
    pixel = np.arange(N_PIXELS)[:, None]
    centre, depth, width = rng.uniform(
        [[0.0], [0.02], [1.0]], [[N_PIXELS * 1.0], [0.3], [3.0]], (3, 100)
    )
    lines = 1 - (depth * np.exp(-0.5 * ((pixel - centre) / width) ** 2)).sum(axis=1)
    return np.asarray(level * (1 + slope * x + curve * x**2) * np.clip(lines, 0.1, None))


def _coverage(shift: int) -> NDArray[np.bool_]:
    covered = np.zeros(N_PIXELS, dtype=bool)
    for window in WINDOWS.values():
        covered[window.start - _MARGIN + shift : window.stop + _MARGIN + shift] = True
    return covered


def _bad_pixels(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
    """A few pixels with one of the bits 0 to 14 each, a few of them in every visit."""
    mask = np.where(rng.random(shape) < 0.05, 1 << rng.integers(0, 15, shape), 0)
    in_all = rng.random(shape[1]) < 0.01
    mask[:, in_all] |= 1 << rng.integers(0, 15, in_all.sum())
    return mask


def _leave_out(
    planes: Planes,
    where: NDArray[np.bool_],
    values: tuple[float, float, int],
    *,
    keep_mask: bool = False,
) -> None:
    planes.flux[where], planes.error[where], mask = values
    if not keep_mask:
        planes.mask[where] = mask


def _header(era: Era, n_visits: int, seed: int, snr: float, telescope: str) -> fits.Header:
    cards: dict[str, Any] = {
        "OBJID": object_name(seed),
        "RA": 11.25 + seed,
        "DEC": -2.5,
        "NVISITS": n_visits,
        "SNR": snr,
        "STARFLAG": 131076,
        "ANDFLAG": 4,
        "VSCATTER": "NaN" if era == "sdss5" else 0.25,
    }
    if era == "dr13":
        cards |= {"SURVEY": "apogee", "TELESCOP": telescope, "LOCID": 4476, "FIELD": "120-45"}
    elif era == "dr17":
        cards |= {"FIELD": "120-45", "VHELIO": 6.7}
    else:
        cards |= {"HEALPIX": 12345, "APRED": _REDUCTIONS[era], "V_APRED": "v1", "STARVER": "60049"}
    for n in range(1, n_visits + 1):
        cards |= {
            f"SFILE{n}": visit_name(era, n, seed, telescope),
            f"JD{n}": 2456000.5 + n,
            f"FIBER{n}": 10 + n,
            f"VRAD{n}": 13.5,
            f"SNRVIS{n}": snr / n,
            f"FLAG{n}": 4 * n,
        }
    if n_visits == 1 and era != "dr13":
        cards["SNRVIS1"] = 0.0 if era == "dr17" else "NaN"
    return fits.Header(cards.items())


def _radial_velocities() -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns([fits.Column("VREL", "D", array=np.array([13.5]))])

"""Names and folders of simulated files, as each era names and files its own."""

from __future__ import annotations

from pathlib import PurePosixPath

from producer.simulation.observation import Layout, Star, Visits
from producer.sources.healpix import ring_pixel

#: The version of the reduction in the names of each layout.
REDUCTIONS: dict[Layout, str] = {"dr13": "r6", "dr17": "dr17", "sdss5": "1.3"}


def star_path(star: Star, layout: Layout) -> PurePosixPath:
    """The path of a star's file below the survey's folder."""
    apred = REDUCTIONS[layout]
    folder = PurePosixPath(apred, "stars", star.telescope)
    if layout == "sdss5":
        healpix = ring_pixel(star.ra, star.dec)
        name = f"apStar-{apred}-{star.telescope}-{star.obj}.fits"
        return folder / f"{healpix // 1000}" / f"{healpix}" / name
    field = f"{star.location}" if layout == "dr13" else field_name(star)
    return folder / field / f"{_prefix(star, layout)}Star-{apred}-{star.obj}.fits"


def field_name(star: Star) -> str:
    """The name of a star's field; no field of a survey is called like that."""
    return f"sim{star.location:05d}"


def visit_names(star: Star, visits: Visits, layout: Layout) -> list[str]:
    """The names of the apVisit files that were combined, in row order."""
    start = f"{_prefix(star, layout)}Visit-{REDUCTIONS[layout]}-"
    if layout == "sdss5":
        start += f"{star.telescope}-"
    return [
        f"{start}{plate}-{mjd}-{fiber:03d}.fits"
        for plate, mjd, fiber in zip(visits.plate, visits.mjd, visits.fiber, strict=True)
    ]


def _prefix(star: Star, layout: Layout) -> str:
    """``as`` for the southern telescope; SDSS-V calls both ``ap``."""
    return "as" if star.telescope == "lco25m" and layout != "sdss5" else "ap"

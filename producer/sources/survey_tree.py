"""Where a survey keeps the files of its stars: the trees of DR17 and SDSS-V.

Below the folder of a reduction's version, ``{apred}``, DR17 files a star as
``stars/{telescope}/{field}/{ap|as}Star-{apred}-{obj}.fits``, and SDSS-V as
``stars/{telescope}/{healpix // 1000}/{healpix}/apStar-{apred}-{telescope}-{obj}-{starver}.fits``
with one file for each night that brought a visit, and a link to the newest without starver. The
tests hold these paths against those of sdss-access.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath

from producer.sources.healpix import ring_pixel
from worker.errors import UsageError

#: Where the versions' folders lie below the folders that people mirror: that of the versions,
#: that of a release, and the whole archive.
_REDUX = (
    "",
    "apogee/spectro/redux",
    "spectro/apogee/redux",
    "dr17/apogee/spectro/redux",
    "dr19/spectro/apogee/redux",
    "ipl-3/spectro/apogee/redux",
    "mwm/apogee/spectro/redux",
    "sdsswork/mwm/apogee/spectro/redux",
)
_STARVER = re.compile(r"(?P<star>.+?)(?:-(?P<starver>\d{5}))?\.fits(?:\.gz)?")
_POSITION = re.compile(
    r"\w*?(?P<h>\d\d)(?P<m>\d\d)(?P<s>\d{4})(?P<sign>[+-])(?P<d>\d\d)(?P<am>\d\d)(?P<as>\d{3})"
)


class StarFiles:
    """The star files of one version of the reduction.

    Parameters
    ----------
    root
        The folder that holds the version's folder, or a mirror of a release or of the archive.
    apred
        The version, as in the names of files.

    Raises
    ------
    UsageError
        There is no such tree.
    """

    def __init__(self, root: Path, apred: str) -> None:
        redux = (root / below for below in _REDUX)
        found = next((folder for folder in redux if (folder / apred / "stars").is_dir()), None)
        if found is None:
            raise UsageError(
                f"There is no {apred}/stars in {root}; name the folder that holds it with --root."
            )
        self._apred = apred
        self._folder = found
        self._newest = lru_cache(maxsize=256)(_newest)  # for as long as a table is read

    def dr17(self, obj: str, telescope: str, field: str, name: str | None) -> Path:
        """A star's file in the tree of DR17, where it lies or would lie.

        Parameters
        ----------
        name
            That of the file, where it is known.
        """
        prefix = "as" if telescope == "lco25m" else "ap"
        name = name or f"{prefix}Star-{self._apred}-{obj}.fits"
        return self._folder / self._apred / "stars" / telescope / field / name

    def sdss5(
        self,
        obj: str,
        telescope: str,
        *,
        uri: str | None = None,
        healpix: int | None = None,
        field: str | None = None,
    ) -> Path:
        """A star's newest file in the tree of SDSS-V, or where it would lie.

        A table may be older than the files, so what the folder holds counts.

        Parameters
        ----------
        uri
            The file that the table names, with the folders above it from the version on.
        healpix
            What the table takes for the pixel; the writer of files took that of the star's name.
        field
            The folder of a star of the one-metre telescope, which has no pixel.
        """
        star = f"apStar-{self._apred}-{telescope}-{obj}"
        places = self._places(obj, telescope, healpix, field, star)
        if uri and (below := PurePosixPath("/", uri).as_posix().partition(f"/{self._apred}/"))[2]:
            places.insert(0, self._folder / self._apred / below[2])
        for place in places:
            match = _STARVER.fullmatch(place.name)
            newest = self._newest(place.parent).get(match["star"] if match else "")
            if newest is not None:
                return newest
        return places[0]

    def _places(
        self, obj: str, telescope: str, healpix: int | None, field: str | None, star: str
    ) -> list[Path]:
        """Where a star's file may lie, the likeliest first; without its starver."""
        stars = self._folder / self._apred / "stars" / telescope
        pixels = dict.fromkeys(each for each in (pixel_of(obj), healpix) if each is not None)
        folders = [stars / f"{pixel // 1000}" / f"{pixel}" for pixel in pixels]
        return [folder / f"{star}.fits" for folder in folders or [stars / (field or "")]]


def pixel_of(obj: str) -> int | None:
    """The HEALPix pixel of the position in a star's 2MASS-style name; None where it has none."""
    if (match := _POSITION.fullmatch(obj)) is None:
        return None
    ra = 15 * (int(match["h"]) + int(match["m"]) / 60 + int(match["s"]) / 360_000)
    dec = int(match["d"]) + int(match["am"]) / 60 + int(match["as"]) / 36_000
    return ring_pixel(ra, -dec if match["sign"] == "-" else dec)


def _newest(folder: Path) -> dict[str, Path]:
    """The newest file of each star in a folder: that of the highest starver, or one without."""
    found: dict[str, tuple[str, Path]] = {}
    with suppress(OSError):
        for path in folder.iterdir():
            if match := _STARVER.fullmatch(path.name):
                version = (match["starver"] or "", path)
                found[match["star"]] = max(version, found.get(match["star"], version))
    return {star: path for star, (_, path) in found.items()}

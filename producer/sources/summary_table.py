"""The survey's own tables of its stars and visits, allStar and allVisit, to rows of the catalogue.

The layouts are those of DR17 and of SDSS-V; a table is recognised by its columns. A row names a
spectrum, whether its file is there or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from producer.progress import Finished
from producer.sources.files import CatalogueEntry, Wanted, coadd_of, spectra_of, visit_of
from producer.sources.fits_rows import FitsTable
from producer.sources.paths import check_inside, place_of
from producer.sources.survey_tree import StarFiles, pixel_of
from worker.errors import UsageError
from worker.spectra.formats.apstar import storable_integer
from worker.spectra.versions import ABSENT

Row = Mapping[str, Any]

#: The columns that are read, and the kinds that their values may have.
_TEXT, _NUMBER = frozenset("S"), frozenset("iuf")
_READ = {
    **dict.fromkeys(("apogee_id", "telescope", "field", "file", "uri"), _TEXT),
    **dict.fromkeys(("ra", "dec", "snr", "starflag", "healpix", "nvisits", "ngoodrvs"), _NUMBER),
    **dict.fromkeys(("plate", "mjd", "fiberid"), _TEXT | _NUMBER),
}
_NEEDED = frozenset({"apogee_id", "telescope", "file"})
_ALL_STAR = _NEEDED | {"nvisits"}
_ALL_VISIT = _NEEDED | {"plate", "mjd", "fiberid"}
#: What only tables of SDSS-V have.
_SDSS5 = frozenset({"uri", "starver", "healpix", "sdss_id", "catalogid"})
#: What a star's file depends on. In SDSS-V one file holds the visits of all fields, except for
#: the one-metre telescope.
_STAR_KEY = ("telescope", "field", "apogee_id")
_APRED = re.compile(r"(?:ap|as)(?:Star|StarC|Visit)(?:-1m)?-(?P<apred>[^-]+)-.+")
#: Rows of visits that are held, to stand star by star, and rows that are Python's at a time.
_ROWS_HELD = 200_000
_ROWS_AT_ONCE = 10_000


class SummaryTable:
    """An allStar or allVisit table of DR17 or SDSS-V.

    Parameters
    ----------
    path
        The table, a FITS file.
    root
        The folder that holds the star files; see :class:`producer.sources.survey_tree.StarFiles`.
    data_root
        The folder that paths are relative to.

    Raises
    ------
    UsageError
        It is no such table, or its star files are nowhere below ``root``.
    """

    def __init__(self, path: Path, root: Path, data_root: Path) -> None:
        self._path = path
        self._table = FitsTable(path)
        kinds = self._table.kinds
        self._names = [name for name in _READ if kinds.get(name, "") in _READ[name]]
        is_visits = {*self._names} >= _ALL_VISIT
        if not is_visits and not {*self._names} >= _ALL_STAR:
            raise UsageError(
                f"{path} is neither an allStar nor an allVisit table: it needs the columns "
                "apogee_id, telescope and file, and nvisits or plate, mjd and fiberid."
            )
        self._lists_visits = is_visits
        if is_visits and "uri" in self._names:
            self._names.remove("uri")  # that of the apVisit file
        self._is_sdss5 = not _SDSS5.isdisjoint(kinds)
        self._data_root = data_root.resolve()
        self._apred = self._version()
        self._files = StarFiles(self._inside(root), self._apred)
        self._star: tuple[Any, CatalogueEntry] | None = None

    def __len__(self) -> int:
        return len(self._table)

    def check(self, wanted: Wanted | None) -> None:
        """Make sure that the table lists what is wanted.

        Raises
        ------
        UsageError
            Coadds are wanted of a table of visits.
        """
        if self._lists_visits and wanted not in (None, "visit"):
            raise UsageError(f"{self._path} lists visits alone; for coadds give allStar.")

    def entries(self, wanted: Wanted | None, finished: Finished) -> Iterator[CatalogueEntry]:
        """The spectra that the rows name, those of one file side by side.

        Parameters
        ----------
        wanted
            None takes what the table lists: the coadds of allStar, the visits of allVisit. The
            visits of the stars of allStar are found in the headers of their files.
        finished
            Told how many rows have been read.

        Raises
        ------
        UsageError
            The table cannot be read to its end.
        """
        return self._visits(finished) if self._lists_visits else self._stars(wanted, finished)

    def _stars(self, wanted: Wanted | None, finished: Finished) -> Iterator[CatalogueEntry]:
        for rows in self._table.blocks(self._names):
            for row in self._values(rows):
                if row["ngoodrvs"] != 0:  # without a good velocity there is no file
                    yield from self._of_star(row, wanted)
                finished(1)

    def _of_star(self, row: Row, wanted: Wanted | None) -> list[CatalogueEntry]:
        file = self._file_of(row)
        star = _described(coadd_of(file, self._data_root), row)
        is_newer = star.starver is not None and row["file"] not in (None, file.name)
        if star.file_version == ABSENT or (wanted in (None, "coadd") and not is_newer):
            return [star]
        return spectra_of(file, self._data_root, wanted or "coadd")

    def _visits(self, finished: Finished) -> Iterator[CatalogueEntry]:
        for rows in self._star_by_star():
            for row in self._values(rows):
                star = self._star_of(row)
                name = row["file"] or self._visit_name(row)
                flags = storable_integer(row["starflag"])
                yield visit_of(star, name, row["snr"], flags)
                finished(1)

    def _star_of(self, visit: Row) -> CatalogueEntry:
        """The star of a visit, looked for once for the visits that stand together."""
        key = tuple(visit[name] for name in _STAR_KEY)
        if self._star is None or self._star[0] != key:
            row = {**visit, "file": None, "nvisits": None, "starflag": None}
            file = self._file_of(row)
            row["healpix"] = pixel_of(visit["apogee_id"] or "") if self._is_sdss5 else None
            self._star = key, _described(coadd_of(file, self._data_root), row)
        return self._star[1]

    def _star_by_star(self) -> Iterator[NDArray[Any]]:
        """Rows with those of a star side by side, so that its file is opened once.

        A table may list visits night by night. Each pass over it takes the stars of one share,
        so that memory holds that many rows and no more.
        """
        shares = -(-len(self) // _ROWS_HELD)
        stars = {*_STAR_KEY} - ({"field"} if self._is_sdss5 else set())
        keys = [name for name in self._names if name in stars]
        for share in range(shares):
            parts = [
                rows[_spread(rows[keys]) % shares == share]
                for rows in self._table.blocks(self._names)
            ]
            held = np.concatenate(parts)
            held = held[np.argsort(held[keys], order=keys, kind="stable")]
            for first in range(0, len(held), _ROWS_AT_ONCE):
                yield held[first : first + _ROWS_AT_ONCE]

    def _file_of(self, row: Row) -> Path:
        """A star's file; one that leads out of the data root ends as a row that says so."""
        obj, telescope = row["apogee_id"] or "", row["telescope"] or ""
        if self._is_sdss5:
            uri, field, healpix = row["uri"], row["field"], storable_integer(row["healpix"])
            file = self._files.sdss5(obj, telescope, uri=uri, healpix=healpix, field=field)
        else:
            file = self._files.dr17(obj, telescope, row["field"] or "", row["file"])
        return self._inside(file)

    def _inside(self, given: Path) -> Path:
        place = place_of(given, self._data_root)
        check_inside(given, place, self._data_root)
        return place

    def _visit_name(self, row: Row) -> str:
        """What the file of a visit must be called that the table does not name."""
        prefix = "as" if row["telescope"] == "lco25m" and not self._is_sdss5 else "ap"
        telescope = f"{row['telescope']}-" if self._is_sdss5 else ""
        return (
            f"{prefix}Visit-{self._apred}-{telescope}{row['plate']}-{row['mjd']}-"
            f"{str(row['fiberid']).zfill(3)}.fits"
        )

    def _values(self, rows: NDArray[Any]) -> Iterator[Row]:
        """Rows by the names of their columns; None where the table has no such column."""
        absent = dict.fromkeys(_READ)
        columns = [self._table.values(rows, name) for name in self._names]
        for values in zip(*columns, strict=True):
            yield {**absent, **dict(zip(self._names, values, strict=True))}

    def _version(self) -> str:
        """The version of the reduction, from the name of the first file that the table names."""
        for rows in self._table.blocks(["file"]):
            for name in filter(None, self._table.values(rows, "file")):
                if match := _APRED.fullmatch(name):
                    return match["apred"]
        raise UsageError(f"{self._path} names no apStar or apVisit file in its column file.")


def _described(star: CatalogueEntry, row: Row) -> CatalogueEntry:
    """A coadd with what the table says of its star."""
    return replace(
        star,
        telescope=row["telescope"],
        field=row["field"],
        healpix=storable_integer(row["healpix"]),
        obj=row["apogee_id"],
        ra=row["ra"],
        dec=row["dec"],
        n_visits=storable_integer(row["nvisits"]),
        snr=row["snr"],
        spectrum_flags=storable_integer(row["starflag"]),
    )


def _spread(keys: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each key, the same for equal keys, spread over all numbers."""
    letters = repack_fields(keys).view(np.uint8).reshape(len(keys), -1)
    odd = 2 * np.arange(1, letters.shape[1] + 1, dtype=np.uint64) + 1
    number = (letters * odd**5).sum(axis=1, dtype=np.uint64)
    return cast(NDArray[np.uint64], (number * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33))

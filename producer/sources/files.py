"""apStar files and folders to rows of the catalogue."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from producer.sources.paths import (
    _ENDINGS,
    _STAR_NAME,
    _TELESCOPES,
    _resolved,
    catalogue_path,
    check_inside,
    is_entered,
    is_taken,
    place_of,
)
from worker.database.tables import Kind
from worker.errors import SpectrumError, UsageError
from worker.identity import COADD, mask_key, natural_key, stem
from worker.spectra.formats import read_header
from worker.spectra.formats.format import StarHeader
from worker.spectra.versions import file_version

Wanted = Literal["coadd", "visit", "both"]

_VISIT_NAME = re.compile(
    rf"(?:ap|as)Visit-[^-]+-(?:(?P<telescope>{'|'.join(_TELESCOPES)})-)?"
    r"(?P<plate>\w+)-(?P<mjd>\d{5})-(?P<fiber>\d{1,3})"
)
_ONE_METRE_VISIT_NAME = re.compile(r"(?:ap|as)Visit-[^-]+-(?P<mjd>\d{5})(?:\.\d+)?-.+")
#: Reductions whose data release is known from their name.
_RELEASES = {"r5": "dr12", "r6": "dr13", "r8": "dr14", "r12": "dr16", "dr17": "dr17"}


@dataclass(frozen=True)
class CatalogueEntry:
    """One spectrum for the catalogue; the fields are the columns of its row."""

    kind: Kind
    path: str
    member: str
    natural_key: str
    file_version: str
    release: str | None = None
    apred: str | None = None
    telescope: str | None = None
    field: str | None = None
    healpix: int | None = None
    obj: str | None = None
    starver: str | None = None
    ra: float | None = None
    dec: float | None = None
    plate: str | None = None
    mjd: int | None = None
    fiber: int | None = None
    n_visits: int | None = None
    snr: float | None = None
    spectrum_flags: int | None = None
    unread_cards: str | None = None

    @property
    def mask_key(self) -> str:
        """See :func:`mask_key`."""
        observed = (self.obj, self.plate, self.mjd, self.fiber)
        return mask_key(self.path, self.member, *observed)


def find_files(paths: Iterable[Path], data_root: Path) -> list[Path]:
    """The files to process, symbolic links followed, each once, in order of their path.

    A folder gives all that ends in ``.fits`` or ``.fits.gz`` below it, whatever it is: what
    is no apStar file is to end as a row that says so. Hidden and temporary names, and the
    folders ``plots`` and ``html``, are left out.

    Raises
    ------
    UsageError
        A path does not exist or lies outside the data root, or there is nothing to process.
    """
    root = data_root.resolve()
    files: dict[Path, None] = {}
    for file in files_of(paths):
        place = place_of(file, root)
        check_inside(file, place, root)
        files[place] = None
    if not files:
        raise UsageError("There is no .fits or .fits.gz file in the given folders.")
    return sorted(files)


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """The files of :func:`find_files` as they are come upon, wherever they lie.

    Raises
    ------
    UsageError
        A path does not exist, or a folder cannot be read.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist.")
        yield from _below(path) if path.is_dir() else [path]


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.")

    seen: set[Path] = set()
    for directory, names, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (resolved := _resolved(Path(directory))) in seen:
            names.clear()  # a link that leads to where we have been
            continue
        seen.add(resolved)
        called_like_files = [name for name in names if name.endswith(_ENDINGS)]
        names[:] = sorted(filter(is_entered, names))
        for name in filter(is_taken, [*files, *called_like_files]):
            yield Path(directory) / name


def spectra_of(file: Path, data_root: Path, wanted: Wanted) -> list[CatalogueEntry]:
    """The spectra in a file: its coadd, its visits, or both.

    A file that cannot be read stands for one spectrum, its coadd, so that it too ends as a
    row, with the reason that the loader finds.

    Parameters
    ----------
    file
        As :func:`find_files` gives it.
    """
    root = data_root.resolve()
    plain = coadd_of(file, root)
    if not _resolved(file).is_relative_to(root):  # the loader refuses it; its row says so
        return [plain]
    try:
        header = read_header(file)
    except (SpectrumError, MemoryError):
        return [plain]
    star = replace(
        plain,
        telescope=header.telescope or plain.telescope,
        field=header.field,
        healpix=header.healpix,
        obj=header.obj or plain.obj,
        ra=header.ra,
        dec=header.dec,
        n_visits=len(header.visits),
        snr=header.snr,
        spectrum_flags=header.spectrum_flags,
        unread_cards=" ".join(header.lost) or None,
    )
    coadd = [star] if wanted in ("coadd", "both") else []
    return coadd + (_visits(star, header) if wanted in ("visit", "both") else [])


def coadd_of(file: Path, root: Path) -> CatalogueEntry:
    """The coadd of a star's file, as far as the file's place and name tell.

    Parameters
    ----------
    file, root
        As :func:`place_of` gives and takes them.
    """
    path = catalogue_path(file, root)
    entry = CatalogueEntry(
        kind=Kind.COADD,
        path=path,
        member=COADD,
        natural_key=natural_key(path, COADD),
        file_version=file_version(file),
    )
    return _with_star_name(entry, file)


def visit_of(
    star: CatalogueEntry, name: str, snr: float | None, flags: int | None
) -> CatalogueEntry:
    """A visit in the file of a star, by the name of its apVisit file."""
    visit = replace(
        star,
        kind=Kind.VISIT,
        member=name,
        natural_key=natural_key(star.path, name),
        n_visits=None,
        snr=snr,
        spectrum_flags=flags,
    )
    return _with_visit_name(visit)


def _visits(star: CatalogueEntry, header: StarHeader) -> list[CatalogueEntry]:
    described = zip(header.visits, header.visit_snr, header.visit_flags, strict=True)
    return [visit_of(star, *visit) for visit in described]


def _with_star_name(entry: CatalogueEntry, file: Path) -> CatalogueEntry:
    """Add what the name of an apStar file says; the telescope may also stand in the path."""
    match = _STAR_NAME.fullmatch(stem(entry.path))
    if match is None:
        return entry
    in_path = next((name for name in _TELESCOPES if name in file.parts), None)
    return replace(
        entry,
        apred=match["apred"],
        release=_RELEASES.get(match["apred"]),
        telescope=match["telescope"] or in_path,
        obj=match["obj"],
        starver=match["starver"],
    )


def _with_visit_name(visit: CatalogueEntry) -> CatalogueEntry:
    """Add plate, MJD and fiber from the visit's name; one-metre visits have the MJD alone."""
    if match := _VISIT_NAME.fullmatch(stem(visit.member)):
        plate, mjd, fiber = match["plate"], int(match["mjd"]), int(match["fiber"])
        return replace(visit, plate=plate, mjd=mjd, fiber=fiber)
    if match := _ONE_METRE_VISIT_NAME.fullmatch(stem(visit.member)):
        return replace(visit, mjd=int(match["mjd"]))
    return visit

"""The truth of a simulated survey: a table of its files, and of the labels that they hold.

``truth.ecsv`` lies in the survey's folder and is also its ledger: it says with which settings
the survey is made and which files are there, so that an interrupted command goes on where it
stopped. It is replaced as a whole, so a reader never sees half of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from astropy.table import Column, Table

from worker.errors import FatalError, UsageError
from worker.labels import LABELS
from worker.version import __version__

NAME = "truth.ecsv"
_NOTICE = (
    "Simulated by astronn-stream simulate: no telescope saw these stars, and nothing here is a "
    "measurement. The labels are those that the spectra were computed from."
)
#: Saving may take this part of the time.
_SAVING_SHARE = 0.05


@dataclass(frozen=True)
class TruthRow:
    """What is known of a star and its file; the fields before ``labels`` are columns.

    ``n_visits`` are the visits in the file, ``n_visits_planned`` those that the star gets in
    all: fewer are there while a survey arrives live.
    """

    star: int
    path: str
    obj: str
    layout: str
    telescope: str
    n_visits: int
    n_visits_planned: int
    snr: float
    v_helio: float
    ra: float
    dec: float
    labels: tuple[float, ...]

    @property
    def complete(self) -> bool:
        """Whether the file has all the visits that it is to have."""
        return self.n_visits == self.n_visits_planned


#: Type, unit and description of the columns before the labels.
_COLUMNS: dict[str, tuple[type, str | None, str]] = {
    "star": (int, None, "Number of the star in the survey"),
    "path": (str, None, "File, relative to the folder of this table"),
    "obj": (str, None, "Name of the star, OBJID of its file"),
    "layout": (str, None, "Layout of the file: dr13 (DR12-16), dr17, sdss5"),
    "telescope": (str, None, "Telescope"),
    "n_visits": (int, None, "Visits in the file"),
    "n_visits_planned": (int, None, "Visits that the star gets in all"),
    "snr": (float, None, "Median S/N per pixel of the coadd, SNR of the file"),
    "v_helio": (float, "km / s", "Radial velocity in the frame of the Sun"),
    "ra": (float, "deg", "Right ascension, J2000"),
    "dec": (float, "deg", "Declination, J2000"),
}


class Truth:
    """The table of a folder while its survey is being written."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], rows: dict[int, TruthRow]):
        self.path = folder / NAME
        self._settings = settings
        self._rows = rows
        self._saved, self._duration = -np.inf, 0.0

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """The truth of a survey: what is there of it, or the table of a new one.

        Parameters
        ----------
        settings
            What makes the survey what it is, as plain values by the names of the options.

        Raises
        ------
        UsageError
            The folder holds another survey, or files that are no simulated survey.
        FatalError
            The folder or the table in it cannot be read or written.
        """
        path = folder / NAME
        settings = {**settings, "software": f"astronn-stream {__version__}"}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return cls(folder, settings, _read(path, settings))
        except OSError as error:
            raise FatalError(f"{folder} cannot be used: {error.strerror or error}.") from error
        refuse_others(folder, "simulated survey")
        truth = cls(folder, settings, {})
        truth.save()
        return truth

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def complete(self) -> int:
        """How many stars have their file with all visits."""
        return sum(row.complete for row in self._rows.values())

    def row(self, star: int) -> TruthRow | None:
        """The row of a star whose file is there."""
        return self._rows.get(star)

    def knows(self, row: TruthRow) -> bool:
        """Whether the table has this row already."""
        return self._rows.get(row.star) == row

    def add(self, row: TruthRow) -> None:
        """Take up a file that has been written, for the next time that the table is saved."""
        self._rows[row.star] = row

    def save(self) -> None:
        """Replace the table."""
        started = time.monotonic()
        # `replacing` makes a folder that comes and goes, and others walk through this one.
        hidden = self.path.with_name(f".{NAME}.{os.getpid()}.part")
        try:
            self.table().write(hidden, format="ascii.ecsv", overwrite=True)
            hidden.replace(self.path)
        except OSError as error:
            reason = error.strerror or error
            raise FatalError(f"{self.path} cannot be written: {reason}.") from error
        finally:
            hidden.unlink(missing_ok=True)
        self._saved = time.monotonic()
        self._duration = self._saved - started

    def save_sometimes(self) -> None:
        """Replace the table, but not so often that it holds up the work."""
        if time.monotonic() - self._saved > self._duration / _SAVING_SHARE:
            self.save()

    def table(self) -> Table:
        """The table, in the order of the stars' numbers."""
        rows = [self._rows[star] for star in sorted(self._rows)]
        columns = [
            Column([getattr(row, name) for row in rows], name, kind, unit=unit, description=text)
            for name, (kind, unit, text) in _COLUMNS.items()
        ]
        labels = np.array([row.labels for row in rows], dtype=np.float64).reshape(-1, len(LABELS))
        columns += [
            Column(labels[:, n], label.name, unit=label.unit, description=label.description)
            for n, label in enumerate(LABELS)
        ]
        return Table(columns, meta={"notice": _NOTICE, "simulate": dict(self._settings)})


def refuse_others(folder: Path, what: str) -> None:
    """Refuse a folder that is to hold something new and holds other files; hidden ones may stay.

    Raises
    ------
    UsageError
        It holds some.
    FatalError
        It cannot be read.
    """
    try:
        others = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise FatalError(f"{folder} cannot be used: {error.strerror or error}.") from error
    if others:
        raise UsageError(
            f"{folder} holds files that are no {what}, such as {others[0]}; give a new or an "
            "empty folder."
        )


def _read(path: Path, settings: Mapping[str, Any]) -> dict[int, TruthRow]:
    """The rows whose files are there, by the numbers of their stars."""
    try:
        table = Table.read(path, format="ascii.ecsv")
        found = table.meta["simulate"]
        columns = {name: table[name].tolist() for name in _COLUMNS}
        labels = zip(*(table[label.name].tolist() for label in LABELS), strict=True)
    except OSError:
        raise
    except Exception as error:  # astropy's readers raise nearly anything on damaged tables
        raise UsageError(
            f"{path} is no table of a simulated survey ({error}); give a new or an empty folder."
        ) from error
    if found != settings:
        raise UsageError(
            f"{path.parent} holds another simulated survey ({_differences(found, settings)}); "
            "give another folder, or the same options to go on with that one."
        )
    names = columns.keys()
    rows = (
        TruthRow(**dict(zip(names, values, strict=True)), labels=tuple(of_star))
        for *values, of_star in zip(*columns.values(), labels, strict=True)
    )
    return {row.star: row for row in rows if (path.parent / row.path).exists()}


def _differences(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {found.get(name)} instead of {settings.get(name)}"
        for name in {**settings, **found}
        if found.get(name) != settings.get(name)
    )

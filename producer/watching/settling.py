"""Files that were noticed and do not count yet: they may still be being written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.errors import SpectrumError
from worker.spectra.formats import read_header
from worker.spectra.versions import ABSENT, file_version

#: An incomplete file counts when it has not changed for so long; its row says why.
PATIENCE_SECONDS = 60.0


@dataclass
class _Noticed:
    """What was seen of a file at the last look; ``whole`` is None until it has been read."""

    version: str
    since: float
    closed: bool
    whole: bool | None = None


class Settling:
    """The files that are waited for.

    A file counts when its size and time stamp are the same in two looks, ``seconds`` apart, and
    all its HDUs are there. One that came by a rename is not written any more: it need only be
    whole. Reductions write some files HDU by HDU, and a file that was cut at the end of an HDU
    looks complete to most readers.

    Parameters
    ----------
    seconds
        From the last change to the moment at which a file counts.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._files: dict[str, _Noticed] = {}

    def soon(self) -> int:
        """How many files may count soon: those that were found incomplete are left out."""
        return sum(each.whole is not False for each in self._files.values())

    def notice(self, file: str, version: str, moment: float, *, closed: bool = False) -> None:
        """Wait for a file.

        Parameters
        ----------
        closed
            It came by a rename, so it is not written any more.
        """
        noticed = self._files.get(file)
        if noticed is None or noticed.version != version:
            self._files[file] = _Noticed(version, moment, closed)
        else:
            noticed.closed |= closed

    def counting(self, moment: float) -> Iterator[tuple[str, str]]:
        """The files that count by now, with their versions; they stay until they are dropped."""
        for file in list(self._files):
            if (version := file_version(Path(file))) == ABSENT:
                del self._files[file]
                continue
            self.notice(file, version, moment)
            if self._counts(file, self._files[file], moment):
                yield file, version

    def _counts(self, file: str, noticed: _Noticed, moment: float) -> bool:
        age = moment - noticed.since
        if noticed.whole is None and (noticed.closed or age >= self._seconds):
            noticed.whole = _is_whole(Path(file))
        return bool(noticed.whole) or age >= max(PATIENCE_SECONDS, self._seconds)

    def drop(self, file: str, version: str) -> None:
        """Wait no more for this version of a file."""
        if (noticed := self._files.get(file)) is not None and noticed.version == version:
            del self._files[file]


def _is_whole(file: Path) -> bool:
    try:
        read_header(file)
    except (SpectrumError, MemoryError):
        return False
    return True

"""Star files that may be new: noticed as they come, and found by looking at the whole tree."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from producer.sources.paths import check_inside
from producer.watching.folder_tree import Tree
from producer.watching.notices import (
    CannotFollowError,
    Inotify,
    Notices,
    Notifier,
    Polling,
    remote_file_system,
)
from worker.errors import TransientError
from worker.outage import Outage
from worker.spectra.versions import ABSENT, file_version
from worker.text import printable

logger = logging.getLogger(__name__)

#: How often the whole tree is looked at, for what was not noticed.
WHOLE_LOOK_SECONDS = 600.0
#: From one look at all folders to the next where inotify does not work.
POLL_SECONDS = 1.0
#: How often it is made sure that the folder is still the same.
_PRESENCE_SECONDS = 1.0
#: How much of a look is done before others get their turn.
_TURN_SECONDS = 0.05
_TURN_FILES = 500


class Sighting(NamedTuple):
    """A star file, symbolic links followed, at one look.

    ``closed``: it came by a rename, so it is not written any more.
    """

    file: str
    version: str
    closed: bool = False


class Arrivals:
    """What arrives in a folder. A folder that is away is waited for; nothing is ever taken as gone.

    Parameters
    ----------
    poll
        Look at the folders so many seconds apart, rather than use inotify.
    """

    def __init__(self, folder: Path, data_root: Path, poll: float | None = None) -> None:
        self._folder = folder
        self._root = data_root.resolve()
        self._poll = poll
        self._tree = Tree(os.path.realpath(folder), str(self._root))
        self._notifier: Notifier = Polling(POLL_SECONDS)
        self._near: dict[str, Iterator[list[str]]] = {}
        self._whole: Iterator[list[str]] | None = None
        self._next_whole = 0.0
        self._identity: tuple[int, int] | None = None
        self._checked = float("-inf")
        self._away = Outage("watch")

    def close(self) -> None:
        """Stop noticing."""
        self._notifier.close()

    def wait(self, seconds: float, *, look: bool) -> tuple[list[Sighting], list[Sighting]]:
        """What was noticed and what was found, after so many seconds at the latest.

        Parameters
        ----------
        look
            Whether there is room for files that are found by looking.
        """
        if not self._is_there():
            time.sleep(seconds)
            return [], []
        try:
            looking = look and (self._near or self._is_whole_look_due())
            noticed = self._heed(self._notifier.wait(0 if looking else seconds))
            return noticed, self._look() if looking else []
        except CannotFollowError as reason:
            self._poll_instead(str(reason))
            return [], []

    def _is_there(self) -> bool:
        """Whether the folder can be looked at; where it is another one by now, begin anew."""
        moment = time.monotonic()
        if moment - self._checked < _PRESENCE_SECONDS:
            return not self._away.is_on
        self._checked = moment
        try:
            status = self._folder.stat()
        except OSError as error:
            self._identity = None
            self._away.begin(TransientError(f"{self._folder} is away: {error.strerror}."))
            return False
        if self._identity != (status.st_dev, status.st_ino):
            self._identity = (status.st_dev, status.st_ino)
            self._begin()
        self._away.end()
        return True

    def _begin(self) -> None:
        """Follow all folders, and look at all of them after that.

        Raises
        ------
        UsageError
            The folder is a link that leads out of the data root by now.
        """
        self._tree.top = os.path.realpath(self._folder)
        check_inside(self._folder, Path(self._tree.top), self._root)
        self._notifier.close()
        try:
            self._notifier = self._new_notifier()
            folders = sum(1 for _ in self._tree.walk(self._tree.top, self._notifier.follow))
        except CannotFollowError as reason:
            self._poll_instead(str(reason))
            return
        self._near.clear()
        self._whole, self._next_whole = None, time.monotonic()
        how = "inotify" if self._poll is None else f"a look every {self._poll:g} s"
        where = printable(str(self._folder))
        logger.info("action=watch folders=%d: following %s by %s", folders, where, how)

    def _new_notifier(self) -> Notifier:
        if self._poll is not None:
            return Polling(self._poll)
        if (kind := remote_file_system(self._tree.top)) is not None:
            raise CannotFollowError(f"inotify does not tell what others write on {kind}")
        return Inotify()

    def _poll_instead(self, reason: str) -> None:
        logger.warning(
            "action=watch: %s; the folders are looked at every %g s instead.", reason, POLL_SECONDS
        )
        self._poll = POLL_SECONDS
        self._begin()

    def _heed(self, notices: Notices) -> list[Sighting]:
        """The star files among what was noticed; folders are looked into next."""
        if notices.lost:
            logger.warning("action=watch: more happened than the kernel tells; looking at all.")
            self._begin()
        for folder in sorted(notices.folders):
            self._near.setdefault(folder, self._walk_near(folder))
        places = [(path, self._tree.place(path), closed) for path, closed in notices.files.items()]
        # That a link was renamed says nothing of the file behind it.
        return _sightings({place: closed and place == path for path, place, closed in places})

    def _walk_near(self, folder: str) -> Iterator[list[str]]:
        """Look into a folder, and into those below it that are not followed by themselves."""
        notifier = self._notifier
        return self._tree.walk(folder, notifier.follow, lambda each: not notifier.follows(each))

    def _look(self) -> list[Sighting]:
        """A part of what there is to look at: folders in which something happened, then all."""
        end, found = time.monotonic() + _TURN_SECONDS, list[Sighting]()
        while len(found) < _TURN_FILES and time.monotonic() < end:
            if (files := self._next_files()) is None:
                break
            found += _sightings(dict.fromkeys(files, False))
        return found

    def _next_files(self) -> list[str] | None:
        while self._near:
            folder, walk = next(iter(self._near.items()))
            if (files := next(walk, None)) is not None:
                return files
            del self._near[folder]
        if not self._is_whole_look_due():
            return None
        if self._whole is None:
            self._whole = self._tree.walk(self._tree.top, self._notifier.follow)
        if (files := next(self._whole, None)) is None:
            self._whole, self._next_whole = None, time.monotonic() + WHOLE_LOOK_SECONDS
        return files

    def _is_whole_look_due(self) -> bool:
        return self._whole is not None or time.monotonic() >= self._next_whole


def _sightings(files: dict[str, bool]) -> list[Sighting]:
    """Look at files, each with whether it is closed; those that have gone are left out."""
    seen = (Sighting(file, file_version(Path(file)), closed) for file, closed in files.items())
    return [each for each in seen if each.version != ABSENT]

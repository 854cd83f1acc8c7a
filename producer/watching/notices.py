"""Noticing that something in a tree of folders has changed: by inotify, or by looking.

Neither is trusted to tell all: a notice says where to look, and the whole tree is looked at from
time to time.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from producer.sources.paths import is_entered, is_star_name
from producer.watching.folder_tree import is_below

#: File systems on which others may write without this kernel noticing.
_REMOTE = {
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4",
    "ocfs2", "orangefs", "overlay", "smb3", "smbfs", "virtiofs",
}  # fmt: skip
_MOUNTS = Path("/proc/self/mountinfo")
#: What the kernel says when there are more folders than it follows, or too many followers.
_TOO_MANY = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

#: A folder in which something has changed is looked into for so long, file by file.
_LIVELY_SECONDS = 900.0
#: Looking takes at most this part of the time.
_SHARE = 0.2
#: How long a part of a look at all folders may take, so that others get their turn.
_TURN_SECONDS = 0.05


@dataclass
class Notices:
    """What may have changed.

    ``files`` are star files by their paths, with whether they came by a rename, so that nobody
    writes them any more. ``folders`` are to be looked into. With ``lost`` anything may have
    changed.
    """

    files: dict[str, bool] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    lost: bool = False


class Notifier(Protocol):
    """One of the two ways to notice."""

    def follow(self, folder: str) -> None:
        """Notice from now on what changes in this folder; again and again does no harm.

        Raises
        ------
        CannotFollowError
            There are too many folders.
        """

    def follows(self, folder: str) -> bool:
        """Whether what is below a changed folder need not be looked into for that."""

    def wait(self, seconds: float) -> Notices:
        """What was noticed, as soon as there is something or so many seconds have passed."""

    def close(self) -> None:
        """Notice nothing any more."""


class CannotFollowError(Exception):
    """The kernel will not tell of changes; the text says why, as the beginning of a sentence."""


class Inotify:
    """Notices by inotify: at once, of what processes of this machine do.

    Raises
    ------
    CannotFollowError
        This system has no inotify, or no more of it.
    """

    def __init__(self) -> None:
        try:
            import inotify_simple
        except ImportError as error:
            raise CannotFollowError("This system has no inotify") from error
        flags = inotify_simple.flags
        self._flags: Any = flags
        self._mask = flags.CREATE | flags.CLOSE_WRITE | flags.MOVED_TO | flags.ONLYDIR
        self._folders: dict[int, str] = {}
        try:
            self._inotify: Any = inotify_simple.INotify()
        except OSError as error:
            raise CannotFollowError(f"inotify is not to be had ({error.strerror})") from error

    def follow(self, folder: str) -> None:
        """As :meth:`Notifier.follow` says."""
        try:
            self._folders[self._inotify.add_watch(folder, self._mask)] = folder
        except OSError as error:
            if error.errno in _TOO_MANY:
                raise CannotFollowError(
                    "There are more folders than inotify follows (the kernel's "
                    "fs.inotify.max_user_watches)"
                ) from error
            # It has gone, or may not be read: listing it will tell.

    def follows(self, folder: str) -> bool:  # noqa: ARG002 - the protocol's form
        """Never: a folder that was moved is followed under its old name."""
        return False

    def wait(self, seconds: float) -> Notices:
        """As :meth:`Notifier.wait` says."""
        notices = Notices()
        for event in self._inotify.read(timeout=int(seconds * 1000)):
            self._take(event, notices)
        return notices

    def _take(self, event: Any, notices: Notices) -> None:
        if event.mask & (self._flags.Q_OVERFLOW | self._flags.UNMOUNT):
            notices.lost = True
        elif event.mask & self._flags.IGNORED:
            self._folders.pop(event.wd, None)
        elif (folder := self._folders.get(event.wd)) is not None:
            path = f"{folder}/{event.name}"
            if event.mask & self._flags.ISDIR:
                notices.folders |= {path} if is_entered(event.name) else set()
            elif is_star_name(event.name):
                notices.files[path] = bool(event.mask & self._flags.MOVED_TO)

    def close(self) -> None:
        """As :meth:`Notifier.close` says."""
        self._inotify.close()


class Polling:
    """Notices by looking at the time stamps of all folders, round after round.

    A folder's time stamp changes when a file comes, goes or is renamed. It does not when a file
    is written anew in place: those are found at once in folders in which something happened
    lately, elsewhere when the whole tree is looked at.

    Parameters
    ----------
    seconds
        From round to round; more where a round takes long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stamps: dict[str, int] = {}
        self._lively: dict[str, float] = {}
        self._round: Iterator[str] | None = None
        self._started = self._next = time.monotonic()
        self._took = 0.0

    def follow(self, folder: str) -> None:
        """As :meth:`Notifier.follow` says."""
        try:
            stamp = Path(folder).stat().st_mtime_ns
        except OSError:
            return
        # Two changes may bear the same time stamp, so what changed lately is looked into again.
        age = time.time() - stamp / 1e9
        if self._stamps.get(folder) != stamp and age < _LIVELY_SECONDS:
            self._lively[folder] = time.monotonic() + _LIVELY_SECONDS
        self._stamps[folder] = stamp

    def follows(self, folder: str) -> bool:
        """Whether it is looked at anyway."""
        return folder in self._stamps

    def wait(self, seconds: float) -> Notices:
        """As :meth:`Notifier.wait` says."""
        notices, moment = Notices(), time.monotonic()
        if moment < self._next:
            time.sleep(min(seconds, self._next - moment))
            return notices
        if self._round is None:
            self._round, self._started, self._took = iter(list(self._stamps)), moment, 0.0
        for folder in self._round:
            self._look_at(folder, moment, notices)
            if time.monotonic() - moment > _TURN_SECONDS:
                break
        else:
            self._round = None
        self._took += time.monotonic() - moment  # without what is done between two turns
        if self._round is None:
            self._next = self._started + max(self._seconds, self._took / _SHARE)
        return notices

    def _look_at(self, folder: str, moment: float, notices: Notices) -> None:
        try:
            stamp = os.stat(folder).st_mtime_ns  # noqa: PTH116 - of very many
        except OSError:
            self._stamps.pop(folder, None)  # if it comes back, the folder above has changed
            self._lively.pop(folder, None)
            return
        if stamp != self._stamps[folder]:
            notices.folders.add(folder)
        elif (until := self._lively.get(folder)) is not None:
            notices.folders.add(folder)
            if until < moment:
                del self._lively[folder]

    def close(self) -> None:
        """As :meth:`Notifier.close` says; there is nothing to close."""


def remote_file_system(folder: str, mounts: str | None = None) -> str | None:
    """The file system of a folder, or of one mounted below it, if others may write to it unseen.

    Parameters
    ----------
    mounts
        The mounts as Linux lists them; read from /proc where None is given.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text()
        except OSError:
            return None
    own, below = ("", ""), []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point, kind = _unquoted(before.split()[4]), after.split()[0]
        if is_below(folder, point) and len(point) >= len(own[0]):
            own = (point, kind)
        elif is_below(point, folder):
            below.append(kind)
    return next((kind for kind in [own[1], *below] if _is_remote(kind)), None)


def _unquoted(point: str) -> str:
    """A mount point as it is; the list has blanks and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def _is_remote(kind: str) -> bool:
    return kind in _REMOTE or kind.startswith("fuse")

"""The tree of folders that is watched: its star files, folder by folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from producer.sources.paths import is_entered, is_star_name, is_taken, place_of
from worker.text import printable

logger = logging.getLogger(__name__)


class Tree:
    """The star files below a folder. What cannot be read is told once and left out.

    Folders and files are strings, symbolic links followed: there may be hundreds of thousands.

    Parameters
    ----------
    top
        The folder.
    root
        The data root. Linked folders outside it are left out.
    """

    def __init__(self, top: str, root: str) -> None:
        self.top = top
        self._root = root
        self._told: set[str] = set()

    def walk(
        self,
        folder: str,
        follow: Callable[[str], None],
        enter: Callable[[str], bool] = lambda _: True,
    ) -> Iterator[list[str]]:
        """The star files in a folder and in those below it, a list for each folder.

        Parameters
        ----------
        follow
            Called for each folder before it is listed, so that what comes later is noticed.
        enter
            Whether to look into a subfolder too.
        """
        waiting, linked = [folder], set[str]()
        while waiting:
            folder = waiting.pop()
            follow(folder)
            files, folders, links = self._list(folder)
            waiting += filter(enter, [*folders, *(set(links) - linked)])
            linked.update(links)
            yield files

    def place(self, path: str) -> str:
        """The file behind symbolic links, as the catalogue is to know it."""
        return str(place_of(Path(path), Path(self._root)))

    def _list(self, folder: str) -> tuple[list[str], list[str], list[str]]:
        """The star files, the folders and the places of linked folders in a folder."""
        files, folders, links = list[str](), list[str](), list[str]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    linked = entry.is_symlink()
                    if is_star_name(entry.name):
                        files.append(self.place(entry.path) if linked else entry.path)
                    elif is_taken(entry.name):
                        self._tell_left_out(entry.path)
                    elif is_entered(entry.name) and _is_folder(entry):
                        links += self._linked(entry.path) if linked else []
                        folders += [] if linked else [entry.path]
        except (FileNotFoundError, NotADirectoryError):
            return [], [], []  # it has gone meanwhile
        except OSError as error:
            self._tell(folder, f"{folder} cannot be read: {error.strerror}; it is left out.")
        return files, folders, links

    def _linked(self, link: str) -> list[str]:
        """Where a linked folder lies, unless it is below the top and found there anyway."""
        place = os.path.realpath(link)
        if is_below(place, self.top):
            return []
        if not is_below(place, self._root):
            self._tell(link, f"{link} leads out of the data root; it is left out.")
            return []
        return [place]

    def _tell_left_out(self, path: str) -> None:
        """Say of the first file that is none of a star's that there are such files."""
        self._tell(
            "",
            f"{path} is not named like a star's file (apStar-*.fits, asStar-*.fits); such files "
            "are left out here, `enqueue` takes them.",
        )

    def _tell(self, what: str, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning("action=watch: %s", printable(sentence))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a loop of links and the like is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_below(path: str, folder: str) -> bool:
    """Whether a path is this folder or lies in it; both without links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")

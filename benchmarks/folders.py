"""What it costs to watch a survey's folders: following, one round of polling, a look at all.

Makes a tree of empty star files as SDSS-V lays them out, a few to a folder, and times the looking
alone, without the catalogue.

    uv run --group dev -m benchmarks.folders [--folders 50000] [--files 2]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil

from producer.watching.folder_tree import Tree
from producer.watching.notices import CannotFollowError, Inotify, Polling
from worker.spectra.versions import file_version


def make(top: Path, folders: int, files: int) -> None:
    """A thousand folders to a folder, so many files in each; the day before yesterday."""
    past = (time.time() - 2 * 86400,) * 2
    for number in range(folders):
        folder = top / f"{number // 1000}" / f"{number}"
        folder.mkdir(parents=True)
        for star in range(files):
            path = folder / f"apStar-1.3-apo25m-2M{number:08d}+{star:07d}.fits"
            path.touch()
        os.utime(folder, past)
    for path in [top, *top.iterdir()]:
        os.utime(path, past)


def memory() -> float:
    """What this process holds, in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def timed(what: str, seconds: float, before: float) -> None:
    """Print a line."""
    print(f"{what:<44} {seconds:6.2f} s, {memory() - before:5.0f} MiB")


def main() -> None:
    """Print the times; they are of the second look, when the kernel knows the folders."""
    parser = argparse.ArgumentParser(description="The cost of watching folders")
    parser.add_argument("--folders", type=int, default=50_000)
    parser.add_argument("--files", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="folders-") as name:
        top = Path(name).resolve()
        make(top, arguments.folders, arguments.files)
        tree = Tree(str(top), str(top))
        print(f"{arguments.folders} folders, {arguments.folders * arguments.files} files")

        started, before = time.perf_counter(), memory()
        found = [file for files in tree.walk(tree.top, lambda _: None) for file in files]
        versions = {file_version(Path(file)) for file in found}
        timed("a look at all files", time.perf_counter() - started, before)
        del found, versions

        try:
            inotify = Inotify()
            started, before = time.perf_counter(), memory()
            for _ in tree.walk(tree.top, inotify.follow):
                pass
            timed("following all folders by inotify", time.perf_counter() - started, before)
            inotify.close()
        except CannotFollowError as reason:
            print(f"{reason}.")

        polling = Polling(0)
        started, before = time.perf_counter(), memory()
        for _ in tree.walk(tree.top, polling.follow):
            pass
        timed("following all folders by polling", time.perf_counter() - started, before)
        for _ in range(2):
            started = polling._next = time.monotonic()
            assert not polling.wait(0).folders
            while polling._round is not None:
                assert not polling.wait(0).folders
            timed("a round of polling", time.monotonic() - started, before)


if __name__ == "__main__":
    main()

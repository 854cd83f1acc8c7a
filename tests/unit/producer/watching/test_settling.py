from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.watching.settling import PATIENCE_SECONDS, Settling
from tests.inputs.apstar_files import write_apstar
from worker.spectra.versions import file_version

SECONDS = 0.3


class Waiting:
    """A file that is waited for, and a clock that the test turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settling = Settling(SECONDS)
        self.moment = 1000.0

    def notice(self, *, closed: bool = False) -> None:
        version = file_version(self.path)
        self.settling.notice(str(self.path), version, self.moment, closed=closed)

    def counts_after(self, seconds: float) -> bool:
        self.moment += seconds
        return [file for file, _ in self.settling.counting(self.moment)] == [str(self.path)]


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    return Waiting(write_apstar(tmp_path / "apStar-1.3-x.fits", era="sdss5").path)


def test_a_file_counts_when_it_was_the_same_for_some_time(waiting: Waiting) -> None:
    waiting.notice()
    assert not waiting.counts_after(0.29)
    assert waiting.counts_after(0.02)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(0, 12345)),
        lambda path: path.write_bytes(path.read_bytes() + b" " * 2880),
    ],
    ids=["time stamp", "size"],
)
def test_a_file_that_changes_is_waited_for_anew(
    waiting: Waiting, change: Callable[[Path], None]
) -> None:
    waiting.notice()
    change(waiting.path)
    assert not waiting.counts_after(0.31)
    assert not waiting.counts_after(0.29)
    assert waiting.counts_after(0.02) == (waiting.path.stat().st_mtime_ns == 12345)


def test_a_file_that_was_renamed_into_place_counts_at_once(waiting: Waiting) -> None:
    waiting.notice(closed=True)
    assert waiting.counts_after(0)


def test_a_file_that_is_written_into_after_its_rename_is_waited_for(waiting: Waiting) -> None:
    waiting.notice(closed=True)
    os.utime(waiting.path, ns=(0, 12345))
    assert not waiting.counts_after(0)
    assert waiting.counts_after(0.31)


def test_a_later_notice_of_the_same_file_does_not_put_it_off(waiting: Waiting) -> None:
    waiting.notice()
    waiting.moment += 0.2
    waiting.notice()
    assert waiting.counts_after(0.11)


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_cut_at_the_end_of_an_hdu_counts_once_it_is_whole(
    tmp_path: Path, closed: bool
) -> None:
    whole = write_apstar(tmp_path / "whole.fits", era="sdss5").path.read_bytes()
    path = tmp_path / "apStar-1.3-x.fits"
    write_apstar(path, era="sdss5", n_hdus=6)
    assert len(path.read_bytes()) % 2880 == 0
    waiting = Waiting(path)
    waiting.notice(closed=closed)
    assert not waiting.counts_after(30)
    path.write_bytes(whole)
    assert not waiting.counts_after(0)
    assert waiting.counts_after(0.31)


def test_a_file_that_stays_incomplete_counts_after_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "apStar-1.3-x.fits"
    path.write_bytes(b"")
    waiting = Waiting(path)
    waiting.notice()
    assert not waiting.counts_after(PATIENCE_SECONDS - 0.1)
    assert waiting.settling.soon() == 0, "it must not keep others from being looked for"
    assert waiting.counts_after(0.2)


def test_a_file_that_vanishes_is_forgotten(waiting: Waiting) -> None:
    waiting.notice()
    waiting.path.unlink()
    assert not waiting.counts_after(0.31)
    assert waiting.settling.soon() == 0


def test_a_file_stays_until_its_version_is_dropped(waiting: Waiting) -> None:
    waiting.notice(closed=True)
    assert waiting.counts_after(0)
    assert waiting.counts_after(0), "registering it may have failed"
    waiting.settling.drop(str(waiting.path), "another version")
    assert waiting.counts_after(0)
    waiting.settling.drop(str(waiting.path), file_version(waiting.path))
    assert not waiting.counts_after(60)

"""What is noticed and found in a folder, by both ways of noticing on a real file system."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import producer.watching.arrivals
import producer.watching.notices
from benchmarks.rig.waiting import wait_for
from producer.watching.arrivals import Arrivals, Sighting
from producer.watching.notices import CannotFollowError, Inotify, Polling, remote_file_system

STAR = "apStar-1.3-apo25m-2M00000001+0000000.fits"


class Watched:
    """A folder that is followed, and what was seen in it that had not been seen before."""

    def __init__(self, folder: Path, poll: float | None) -> None:
        self.folder = folder
        self.arrivals = Arrivals(folder, folder.parent, poll)
        self.seen: dict[str, Sighting] = {}
        self._known: set[tuple[str, str]] = set()

    def look(self) -> None:
        noticed, found = self.arrivals.wait(0.05, look=True)
        for each in [*noticed, *found]:
            if each[:2] not in self._known:
                self._known.add(each[:2])
                self.seen[str(Path(each.file).relative_to(self.folder))] = each

    def look_until(self, condition: Callable[[], object], what: str) -> None:
        def met() -> object:
            self.look()
            return condition()

        wait_for(met, what, 20)

    def sees(self, *names: str) -> None:
        """Look until just these files have been seen since the last time, and no others."""
        self.look_until(lambda: self.seen.keys() >= set(names), f"{names}")
        for _ in range(6):
            self.look()
        assert set(self.seen) == set(names)
        self.seen.clear()

    def sees_nothing(self) -> None:
        self.sees()


@pytest.fixture(params=[None, 0.1], ids=["inotify", "polling"])
def poll(request: pytest.FixtureRequest) -> float | None:
    return request.param


@pytest.fixture
def watched(tmp_path: Path, poll: float | None) -> Iterator[Watched]:
    (tmp_path / "data" / "old").mkdir(parents=True)
    (tmp_path / "data" / "old" / STAR).write_text("old")
    watched = Watched(tmp_path / "data", poll)
    with closing(watched.arrivals):
        watched.sees(f"old/{STAR}")
        yield watched


def age(folder: Path) -> None:
    """Let what is below a folder look a day old, so that it is no longer lively."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - 86400,) * 2)


def test_a_file_that_is_written_is_noticed(watched: Watched) -> None:
    (watched.folder / "old" / f"x{STAR}").write_text("no star's name")
    (watched.folder / "old" / STAR.replace("1+", "2+")).write_text("new")
    watched.sees(f"old/{STAR.replace('1+', '2+')}")


def test_a_file_that_is_renamed_into_place_is_noticed(watched: Watched) -> None:
    hidden = watched.folder / "old" / f".{STAR}.Xy12Zz"
    hidden.write_text("new content")
    watched.sees_nothing()
    hidden.rename(watched.folder / "old" / STAR)
    watched.look_until(lambda: watched.seen, "the file")
    # Only inotify tells that nobody writes it any more.
    closed = isinstance(watched.arrivals._notifier, Inotify)
    assert watched.seen[f"old/{STAR}"].closed == closed


def test_a_file_that_is_written_anew_in_place_is_noticed(watched: Watched) -> None:
    before = (watched.folder / "old").stat()
    (watched.folder / "old" / STAR).write_text("another one")
    os.utime(watched.folder / "old", ns=(before.st_atime_ns, before.st_mtime_ns))
    watched.look_until(lambda: watched.seen, "the file")
    assert watched.seen[f"old/{STAR}"].version.startswith("11-")


@pytest.mark.parametrize(
    "name",
    [f".{STAR}", f"{STAR}.part", f"{STAR}.tmp", f"{STAR}~", "star_doppler.pkl", "allStar-1.3.fits"],
)
def test_temporary_and_foreign_names_are_left_out(watched: Watched, name: str) -> None:
    (watched.folder / name).write_text("new")
    for folder in (".git", "plots", "html"):
        (watched.folder / folder).mkdir()
        (watched.folder / folder / STAR).write_text("new")
    watched.sees_nothing()


def test_folders_that_come_with_files_in_them_are_looked_into(watched: Watched) -> None:
    deep = watched.folder / "new" / "12" / "12345"
    deep.mkdir(parents=True)
    (deep / STAR).write_text("new")
    watched.sees(f"new/12/12345/{STAR}")
    (deep / "later").mkdir()
    (deep / "later" / STAR).write_text("new")
    watched.sees(f"new/12/12345/later/{STAR}")


def test_a_folder_that_is_moved_in_is_looked_into(watched: Watched) -> None:
    outside = watched.folder.parent / "outside"
    (outside / "a" / "b").mkdir(parents=True)
    (outside / "a" / "b" / STAR).write_text("new")
    age(outside)
    outside.rename(watched.folder / "in")
    watched.sees(f"in/a/b/{STAR}")
    (watched.folder / "in" / "a" / "b" / STAR).rename(watched.folder / "in" / "a" / STAR)
    watched.look_until(lambda: f"in/a/{STAR}" in watched.seen, "the file in its new place")


def test_a_folder_that_is_renamed_is_followed_under_its_new_name(watched: Watched) -> None:
    (watched.folder / "old").rename(watched.folder / "new")
    watched.sees(f"new/{STAR}")
    (watched.folder / "new" / STAR.replace("1+", "2+")).write_text("new")
    watched.look_until(lambda: f"new/{STAR.replace('1+', '2+')}" in watched.seen, "the file")


def test_a_link_and_its_target_are_one_file(watched: Watched) -> None:
    target = watched.folder / STAR.replace(".fits", "-60049.fits")
    target.write_text("new")
    (watched.folder / STAR).symlink_to(target.name)
    watched.sees(target.name)


def test_a_link_that_is_renamed_into_place_does_not_close_its_file(tmp_path: Path) -> None:
    """As `ln -sf` does it, while somebody writes the file."""
    (tmp_path / "file.part").write_text("half of it")
    with closing(Arrivals(tmp_path, tmp_path)) as arrivals:
        arrivals.wait(0, look=True)
        (tmp_path / "new").symlink_to("file.part")
        (tmp_path / "new").rename(tmp_path / STAR)
        noticed = [each for _ in range(3) for each in arrivals.wait(0.1, look=False)[0]]
    assert [(Path(each.file).name, each.closed) for each in noticed] == [("file.part", False)]


def test_a_link_without_a_target_and_a_folder_that_goes_do_no_harm(watched: Watched) -> None:
    (watched.folder / STAR).symlink_to("nowhere.fits")
    (watched.folder / "old" / STAR).unlink()
    (watched.folder / "old").rmdir()
    watched.sees_nothing()
    (watched.folder / "nowhere.fits").write_text("new")
    (watched.folder / "old").mkdir()
    (watched.folder / "old" / STAR).write_text("new")
    watched.look_until(lambda: f"old/{STAR}" in watched.seen, "the file")


@pytest.mark.parametrize("target", ["turn", f"{STAR}/inside"], ids=["loop", "file"])
def test_a_link_that_leads_nowhere_hides_nothing_beside_it(watched: Watched, target: str) -> None:
    folder = watched.folder.parent / "made"
    folder.mkdir()
    names = [STAR.replace("1+", f"{number}+") for number in range(2, 5)]
    (folder / STAR).write_text("new")
    for turn in ("turn", "other", "third"):  # the order of a folder is nobody's choice
        (folder / turn).symlink_to(target)
    for name in names:
        (folder / name).write_text("new")
    folder.rename(watched.folder / "made")
    watched.sees(*(f"made/{name}" for name in [STAR, *names]))


def test_a_folder_that_is_away_is_waited_for(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = watched.folder.with_name("elsewhere")
    watched.folder.rename(elsewhere)
    watched.look_until(lambda: "is away" in caplog.text, "the warning")
    for _ in range(3):
        watched.look()
    assert caplog.text.count("is away") == 1
    (elsewhere / STAR).write_text("came meanwhile")
    elsewhere.rename(watched.folder)
    watched.sees(STAR)
    assert "goes on" in caplog.text


def test_another_folder_in_its_place_is_followed(watched: Watched) -> None:
    """As when a file system is mounted over it."""
    other = watched.folder.with_name("other")
    (other / "b").mkdir(parents=True)
    (other / "b" / STAR).write_text("there already")
    watched.folder.rename(watched.folder.with_name("elsewhere"))
    other.rename(watched.folder)
    watched.sees(f"b/{STAR}")
    (watched.folder / STAR).write_text("new")
    watched.look_until(lambda: STAR in watched.seen, "the file")


def test_what_nobody_noticed_is_found_in_time(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.arrivals._notifier.close()
    deaf = Polling(3600)
    watched.arrivals._notifier = deaf
    deaf._next = time.monotonic() + 3600
    (watched.folder / STAR).write_text("new")
    watched.sees_nothing()
    monkeypatch.setattr(watched.arrivals, "_next_whole", time.monotonic())
    watched.sees(STAR)


def test_linked_folders_are_followed_within_the_data_root(
    tmp_path: Path, poll: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("root/data", "root/beside", "outside"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / STAR).write_text("a star")
    data = tmp_path / "root" / "data"
    for name, target in [
        ("up", data),
        ("a", "../beside"),
        ("b", "../beside"),
        ("c", "../../outside"),
    ]:
        (data / name).symlink_to(target)
    (tmp_path / "root" / "beside" / "round").symlink_to(tmp_path / "root" / "beside")
    with closing(Arrivals(data, tmp_path / "root", poll)) as arrivals:
        found = {each.file for _ in range(9) for each in arrivals.wait(0.05, look=True)[1]}
    assert found == {str(data / STAR), str(tmp_path / "root" / "beside" / STAR)}
    assert caplog.text.count("leads out of the data root") == 1


def test_a_folder_that_cannot_be_read_is_told_once_and_the_others_go_on(
    watched: Watched, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # tests may run as root, who may read all
    (watched.folder / "locked").mkdir()
    watched.look_until(lambda: "locked cannot be read" in caplog.text, "the warning")
    watched.arrivals._begin()
    (watched.folder / STAR).write_text("new")
    watched.sees(STAR)
    assert caplog.text.count("Permission denied; it is left out") == 1


def test_no_name_of_a_file_steers_the_terminal_of_who_reads_the_log(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    (watched.folder / "made").mkdir()
    (watched.folder / "made" / "\x1b]0;x\n.fits").write_text("no star's name")
    watched.look_until(lambda: "are left out here" in caplog.text, "the sentence")
    assert "/made/?]0;x?.fits is not named" in caplog.text


def test_an_overflow_of_the_kernels_queue_is_made_up_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    watched = Watched(tmp_path / "data", None)
    with closing(watched.arrivals):
        watched.sees_nothing()
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        names = [str(watched.folder / each) for each in ("a", "b")]  # equal ones become one notice
        for number in range(limit + 10):
            os.close(os.open(names[number % 2], os.O_WRONLY | os.O_CREAT))
        (watched.folder / STAR).write_text("lost")
        watched.sees(STAR)
    assert "more happened than the kernel tells" in caplog.text


@pytest.mark.parametrize(("error", "why"), [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "")])
def test_more_folders_than_the_kernel_follows_are_looked_at_instead(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    why: str,
) -> None:
    inotify_simple = pytest.importorskip("inotify_simple")

    def refuse(*_: object) -> None:
        raise OSError(error, "No space left on device")

    monkeypatch.setattr(inotify_simple.INotify, "add_watch" if why else "__init__", refuse)
    caplog.set_level(logging.INFO)
    watched = Watched(tmp_path, None)
    watched.arrivals = Arrivals(tmp_path, tmp_path)
    watched.sees_nothing()
    assert f"{why}); the folders are looked at every 1 s instead" in caplog.text.replace(
        "device", ""
    ).replace("(No space left on )", ")")
    (tmp_path / STAR).write_text("new")
    watched.sees(STAR)


def test_what_is_done_between_two_turns_does_not_put_off_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer.watching.notices, "_TURN_SECONDS", -1.0)  # a folder at a time
    polling = Polling(0.1)
    folders = [str(tmp_path / f"{number}") for number in range(5)]
    for folder in folders:
        Path(folder).mkdir()
        polling.follow(folder)
    for _ in (*folders, "the end"):
        polling.wait(0)
        time.sleep(0.2)  # as registering takes, when much arrives
    assert [polling.wait(0.1).folders for _ in folders] == [{folder} for folder in folders]


# Where inotify does not tell all

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:40 / /net rw,relatime shared:5 - nfs4 server:/export rw
24 22 0:41 / /net/local\\040disk rw - xfs /dev/vdb rw
25 22 0:42 / /home/x/sshfs rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data", None),
        ("/net", "nfs4"),
        ("/net/spectra", "nfs4"),
        ("/network", None),
        ("/net/local disk/spectra", None),
        ("/home/x", "fuse.sshfs"),
        ("/home/y", None),
    ],
)
def test_remote_file_systems_are_recognised(folder: str, kind: str | None) -> None:
    assert remote_file_system(folder, MOUNTS) == kind


def test_folders_of_a_remote_file_system_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(producer.watching.arrivals, "remote_file_system", lambda _: "nfs4")
    with closing(Arrivals(tmp_path, tmp_path)) as arrivals:
        arrivals.wait(0, look=True)
        assert isinstance(arrivals._notifier, Polling)
    assert "nfs4; the folders are looked at every 1 s instead." in caplog.text


def test_a_system_without_inotify_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "inotify_simple", None)
    with pytest.raises(CannotFollowError, match="no inotify"):
        Inotify()

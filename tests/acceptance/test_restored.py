"""A database that is restored from a backup while results are under way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.rig.rows import assert_undisturbed, undisturbed
from benchmarks.rig.stream import Stream, stream_on_sqlite
from benchmarks.rig.waiting import wait_for
from worker.queues import ALL_QUEUES
from worker.transport.broker import UNACKED


def test_results_from_before_a_restore_change_nothing_that_came_after_it(
    tmp_path: Path, spectra: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, file in zip((before, after), sorted(spectra.glob("*.fits")), strict=False):
        folder.mkdir()
        shutil.copyfile(file, folder / file.name)
    environment = {"ASTRONN_STREAM_MC_SAMPLES": "4", "ASTRONN_STREAM_LOAD_PROCESSES": "1"}
    rows = undisturbed(after, tmp_path / "alone", environment)
    with stream_on_sqlite(environment, tmp_path) as stream:
        folder = stream.folder
        for name in ("dispatcher", "record"):
            stream.stop(name)
        backup = copied(folder / "stream.sqlite", folder / "backup.sqlite")
        stream.enqueue(before, tag="")
        stream.start("dispatcher")
        wait_for(lambda: only_results_lie_in(stream), "the results before the restore")
        stream.stop("dispatcher")
        numbers = stream.number("SELECT count(*) FROM job")
        stream.engine.dispose()
        copied(backup, folder / "stream.sqlite")
        stream.enqueue(after, tag="")
        stream.start("record", "dispatcher")
        stream.wait("", len(rows))
        wait_for(lambda: status(stream)["strangers"] == numbers, "the strangers to be counted")
        assert any("no job's of this database" in each for each in status(stream)["problems"])
        table = stream.table("")
        assert [Path(path).name for path in table["path"]] == list(rows["path"])
        table["path"] = rows["path"]
        assert_undisturbed(table, rows)
        assert stream.attempts("") == 1


def copied(source: Path, target: Path) -> Path:
    """A copy of a database that nobody has open, in place of what was there."""
    for ending in ("-wal", "-shm"):
        target.with_name(target.name + ending).unlink(missing_ok=True)
    return Path(shutil.copyfile(source, target))


def only_results_lie_in(stream: Stream) -> bool:
    """Whether all has come as far as the recorder, which does not run."""
    client = stream.redis.client
    lengths = {name: client.llen(name) for name in ALL_QUEUES}
    results = lengths.pop("record") + lengths.pop("record.live")
    return results > 0 and not any(lengths.values()) and not client.hlen(UNACKED)


def status(stream: Stream) -> dict[str, object]:
    found: dict[str, object] = json.loads(stream.command("status", "--json"))
    return found

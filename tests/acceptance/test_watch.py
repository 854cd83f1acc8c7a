"""``astronn-stream watch`` beside a real stack, while files are written, renamed and rewritten."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import DONE, Workplace
from tests.acceptance.test_stack import start_stack
from tests.inputs.apstar_files import write_apstar

NO_RESULT = "SELECT count(*) FROM astronn WHERE result_flags & 2048"


def test_what_arrives_comes_out_as_rows(tmp_path: Path, demonstration_weights: Path) -> None:
    place = Workplace(
        tmp_path / "work",
        {
            "ASTRONN_STREAM_MODEL": str(demonstration_weights),
            "ASTRONN_STREAM_MC_SAMPLES": "4",
            "ASTRONN_STREAM_DATA_ROOT": str(tmp_path / "data"),
        },
    )
    data = tmp_path / "data" / "stars"
    data.mkdir(parents=True)
    whole = {
        n: write_apstar(tmp_path / f"{n}.fits", era="sdss5", n_visits=n).path.read_bytes()
        for n in (1, 2)
    }
    (data / "apStar-1.3-apo25m-before.fits").write_bytes(whole[1])
    no_utf8 = os.fsdecode(b"apStar-1.3-apo25m-2M\xff\xfe.fits")
    log = place.temporary / "watch.log"
    watch = place.start("watch", data, log=log)  # it waits for the stack
    wait_for(lambda: place.count("SELECT count(*) FROM job") == 2, "the file of before")
    stack = start_stack(place)
    try:
        wait_for(lambda: place.count(DONE) == 2, "the file of before")
        write_slowly(data / "apStar-1.3-apo25m-slow.fits", whole[2])
        hidden = data / ".apStar-1.3-apo25m-renamed.fits.Ab12Cd"
        hidden.write_bytes(whole[1])
        hidden.rename(data / no_utf8)
        (data / "apStar-1.3-apo25m-part.fits.part").write_bytes(whole[1][:5000])
        moved = tmp_path / "12345"
        moved.mkdir()
        (moved / "apStar-1.3-apo25m-moved-60049.fits").write_bytes(whole[1])
        (moved / "apStar-1.3-apo25m-moved.fits").symlink_to("apStar-1.3-apo25m-moved-60049.fits")
        moved.rename(data / "12345")
        wait_for(lambda: place.count(DONE) == 9, "what arrived")
        rewritten = data / "apStar-1.3-apo25m-before.fits"
        shutil.copyfile(tmp_path / "2.fits", rewritten)
        wait_for(lambda: place.count(DONE) == 10, "the new visit")
        wait_for(lambda: "spectra=3 enqueued=3" in log.read_text(), "the line that says so")
        place.stop(watch, signal.SIGTERM, 0)
        (data / "apStar-1.3-apo25m-meanwhile.fits").write_bytes(whole[1])
        again = place.temporary / "again.log"
        watch = place.start("watch", data, log=again)
        wait_for(lambda: place.count(DONE) == 12, "what came meanwhile")
        place.stop(watch, signal.SIGINT, 0)
    finally:
        watch.kill()
        watch.wait()
        place.stop(stack, signal.SIGTERM, 0)
    assert place.count(NO_RESULT) == 0, "a file was taken before it was whole"
    assert place.count("SELECT count(*) FROM spectrum") == 12
    for text in (log.read_text(), again.read_text()):
        assert "following" in text
        assert "Traceback" not in text
    assert "files=1 spectra=2 enqueued=2" in again.read_text()


def test_a_folder_that_cannot_be_watched_is_an_error_of_usage(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "work", {"ASTRONN_STREAM_DATA_ROOT": str(tmp_path / "work")})
    (place.folder / "out").symlink_to(tmp_path)
    assert "nowhere does not exist" in place.run("watch", "nowhere", status=2)
    assert "outside the data root" in place.run("watch", "out", status=2)
    assert place.files() == {"out"}


def write_slowly(path: Path, content: bytes) -> None:
    """As a reduction does it, HDU by HDU, each pause longer than a file takes to settle."""
    half = len(content) // 2 // 2880 * 2880
    with path.open("wb") as file:
        for part in (content[:half], content[half:-2880], content[-2880:]):
            file.write(part)
            file.flush()
            time.sleep(0.5)

"""The stages on a real Redis and a real database, message by message, without worker processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from sqlalchemy import select

import worker.spectra.load
import worker.stages.infer as infer_stage
from tests.conftest import on_real_data
from tests.integration.conftest import Stream
from worker.database.session import transaction
from worker.database.tables import AstroNN, Job, JobState
from worker.errors import BusyError, SpectrumError, TransientError
from worker.messages import InferSpectra, LoadSpectra, SpectrumReference
from worker.settings import get_settings
from worker.spectra.formats.apstar import read_spectra
from worker.spectra.pixels import N_PIXELS
from worker.stages import load as load_stage
from worker.transport.arrays import Absent, ArrayStore
from worker.transport.crash_guard import CrashGuard


@on_real_data
def test_every_job_ends_as_one_row_with_labels(stream: Stream) -> None:
    assert stream.send() == len(stream.registered.jobs) == 12
    stream.drain()
    rows = stream.rows()
    assert sorted(rows) == sorted(stream.registered.jobs)
    assert all(teff is not None for teff, *_ in rows.values())
    with stream.engine.connect() as connection:
        assert set(connection.scalars(select(Job.state))) == {JobState.DONE}


@on_real_data
def test_delivering_every_message_twice_gives_the_same_rows(stream: Stream) -> None:
    stream.send()
    stream.drain()
    once = stream.rows()
    with transaction(stream.engine) as session:
        for row in session.scalars(select(AstroNN)):
            session.delete(row)
        for job in session.scalars(select(Job)):
            job.state = JobState.WAITING
    stream.send()
    stream.drain(times=2)
    assert stream.rows() == once


def test_messages_are_small_json_without_arrays(stream: Stream) -> None:
    stream.send()
    for message in stream.queued("load.bulk"):
        assert message["content-type"] == "application/json"
        assert len(json.dumps(message)) < 10_000
    stream.drain()


def test_flower_sees_the_spectra_as_arguments(stream: Stream) -> None:
    stream.send(jobs=stream.registered.jobs[:3])
    name = Path(stream.path_of(stream.registered.jobs[0])).stem
    shown = f"(3 spectra: {name}: coadd, 2 visits [1, 2, 3])"
    for queue, function in (
        ("load.bulk", load_stage.load_task),
        ("infer.bulk", infer_stage.infer_task),
        ("record", None),
    ):
        (message,) = stream.queued(queue)
        assert message["headers"]["argsrepr"] == shown
        if function is not None:
            function((stream.take(queue) or ("", {}))[1])


def test_the_files_of_a_chunk_are_whole(stream: Stream) -> None:
    stream.send()
    chunks = []
    while taken := stream.take("load.bulk"):
        chunks.append({spectrum["path"] for spectrum in taken[1]["spectra"]})
    assert len(chunks) == 2
    assert chunks[0].isdisjoint(chunks[1])


def test_flux_that_is_gone_is_loaded_again(stream: Stream) -> None:
    stream.send()
    while taken := stream.take("load.bulk"):
        load_stage.load(LoadSpectra.model_validate(taken[1]), stream.process)
    assert stream.client.llen("infer.bulk") == 2
    with redis.Redis.from_url(get_settings().arrays) as arrays:
        keys = arrays.keys("astronn-stream:flux:*")
        assert len(keys) == 2
        arrays.delete(*keys)
    stream.drain()
    assert len(stream.rows()) == 12


def test_flux_frees_its_memory_once_it_is_used(stream: Stream) -> None:
    stream.send()
    stream.drain()
    with redis.Redis.from_url(get_settings().arrays) as arrays:
        assert {arrays.strlen(key) for key in arrays.keys("*")} == {len(b"finished")}


def test_a_live_lane_stays_live_through_the_stages(stream: Stream) -> None:
    stream.change_jobs(lane="live")
    stream.send()
    assert stream.client.llen("load.live") == 2
    _, body = stream.take("load.live") or ("", {})
    load_stage.load(LoadSpectra.model_validate(body), stream.process)
    assert stream.client.llen("infer.live") == 1
    assert stream.client.llen("infer.bulk") == 0
    _, body = stream.take("infer.live") or ("", {})
    infer_stage.infer(InferSpectra.model_validate(body), stream.process)
    assert stream.client.llen("record.live") == 1
    assert stream.client.llen("record") == 0


def test_live_spectra_without_labels_are_recorded_first_too(stream: Stream) -> None:
    stream.change_jobs(lane="live")
    stream.send()
    _, body = stream.take("load.live") or ("", {})
    path = body["spectra"][0]["path"]
    gone = [{**each, "path": f"{path}.gone"} for each in body["spectra"]]
    load_stage.load(LoadSpectra.model_validate(body | {"spectra": gone}), stream.process)
    assert stream.client.llen("record.live") == 1
    assert stream.client.llen("record") == 0


def test_jobs_for_other_weights_wait_again_at_no_cost(stream: Stream) -> None:
    stream.change_jobs(weights_sha256="0" * 64)
    stream.send()
    stream.drain()
    assert set(stream.states().values()) == {JobState.WAITING}
    assert stream.attempts() == {0}
    assert stream.reasons() == {}
    with transaction(stream.engine) as session:
        (said,) = set(session.scalars(select(Job.last_error)))
    assert "It waits for the weights 000000000000; those served are " in (said or "")


def test_dispatching_again_leaves_done_jobs_alone(stream: Stream) -> None:
    stream.send()
    stream.drain()
    assert stream.send() == 0
    with stream.engine.connect() as connection:
        assert set(connection.scalars(select(Job.state))) == {JobState.DONE}


def test_a_file_that_vanished_becomes_rows_with_a_reason(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_DATA_ROOT", str(tmp_path))
    get_settings.cache_clear()
    stream.send()
    stream.drain()
    with transaction(stream.engine) as session:
        reasons = list(session.scalars(select(AstroNN.no_result_reason)))
    assert len(reasons) == 12
    assert all("does not exist" in (reason or "") for reason in reasons)


def test_a_stage_that_fails_by_surprise_ends_its_spectra_with_the_error(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(load_stage, "load_spectra", fail)
    stream.send()
    while taken := stream.take("load.bulk"):
        with pytest.raises(ZeroDivisionError):  # for Celery to log, and for Flower
            load_stage.load_task(taken[1])
    (first, _) = stream.queued("record")
    name = Path(stream.path_of(stream.registered.jobs[0])).stem
    assert name in first["headers"]["argsrepr"]
    assert "The load stage failed: ZeroDivisionError('a defect')." in first["headers"]["argsrepr"]
    stream.drain()
    with transaction(stream.engine) as session:
        reasons = set(session.scalars(select(AstroNN.no_result_reason)))
    assert reasons == {"The load stage failed: ZeroDivisionError('a defect')."}
    assert len(stream.rows()) == 12


@pytest.fixture
def store(redis_urls: tuple[str, str]) -> ArrayStore:
    return ArrayStore(redis_urls[1], ttl=100)


def test_the_array_store_gives_back_what_it_got(store: ArrayStore) -> None:
    flux = np.random.default_rng(1).normal(size=(3, N_PIXELS)).astype(np.float32)
    store.put("key", flux)
    np.testing.assert_array_equal(store.get("key", 3), flux)


def test_the_array_store_knows_no_array_of_another_size(store: ArrayStore) -> None:
    store.put("key", np.zeros((2, N_PIXELS), dtype=np.float32))
    assert store.get("key", 3) is Absent.GONE
    assert store.get("other", 2) is Absent.GONE


def test_flux_that_has_served_is_told_from_flux_that_is_gone(store: ArrayStore) -> None:
    store.put("key", np.zeros((2, N_PIXELS), dtype=np.float32))
    store.finish("key")
    assert store.get("key", 2) is Absent.FINISHED


def test_arrays_have_a_time_to_live(store: ArrayStore, redis_urls: tuple[str, str]) -> None:
    store.put("key", np.zeros((1, N_PIXELS), dtype=np.float32))
    with redis.Redis.from_url(redis_urls[1]) as client:
        assert 0 < client.ttl("key") <= 100


def test_an_array_store_that_is_away_is_transient(tmp_path: Path) -> None:
    store = ArrayStore(f"unix://{tmp_path / 'none.sock'}?db=1", ttl=1)
    with pytest.raises(TransientError, match="array store"):
        store.get("key", 1)


def test_loaders_of_bulk_pause_while_much_waits_for_inference(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_INFER_BACKLOG", "1")
    monkeypatch.setattr(load_stage, "_PAUSE_SECONDS", 0.0)
    get_settings.cache_clear()
    stream.send()
    (first, second) = (stream.take("load.bulk") for _ in range(2))
    assert first is not None
    assert second is not None
    load_stage.load(LoadSpectra.model_validate(first[1]), stream.process)
    with pytest.raises(BusyError, match="pauses"):
        load_stage.load(LoadSpectra.model_validate(second[1]), stream.process)
    load_stage.load(LoadSpectra.model_validate(second[1] | {"lane": "live"}), stream.process)
    assert stream.client.llen("infer.live") == 1
    stream.client.delete("infer.bulk")
    load_stage.load(LoadSpectra.model_validate(second[1]), stream.process)
    assert stream.client.llen("infer.bulk") == 1


def test_a_live_message_that_waits_is_seen(stream: Stream) -> None:
    assert not infer_stage._live_waits(stream.process)
    stream.change_jobs(lane="live")
    stream.send()
    assert not infer_stage._live_waits(stream.process)
    _, body = stream.take("load.live") or ("", {})
    load_stage.load(LoadSpectra.model_validate(body), stream.process)
    assert infer_stage._live_waits(stream.process)


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture
def guard(redis_urls: tuple[str, str]) -> CrashGuard:
    return CrashGuard(redis_urls[1])


REFERENCE = SpectrumReference(
    job=1,
    spectrum=1,
    file_version="1",
    path="apStar-bad.fits",
    member="coadd",
    snr=None,
    mask_key="apStar-bad/coadd",
)


OTHER = REFERENCE.model_copy(update={"job": 2, "path": "apStar-good.fits"})
BAD = LoadSpectra(lane="bulk", weights="w", spectra=(REFERENCE, OTHER))


def read_both(guard: CrashGuard, *bad: SpectrumReference) -> list[str]:
    """Serve the message; a bad file ends the process. Returns the reasons of the refusals."""
    reasons = []
    with guard.serving(BAD) as reading:
        for spectrum in BAD.spectra:
            try:
                with reading(spectrum):
                    if spectrum in bad:
                        raise Killed
            except SpectrumError as error:
                reasons.append(str(error))
    return reasons


def crash(guard: CrashGuard, *bad: SpectrumReference) -> None:
    with pytest.raises(Killed):
        read_both(guard, *bad)


def test_a_file_that_killed_three_readers_is_not_read_again(guard: CrashGuard) -> None:
    for _ in range(3):
        crash(guard, REFERENCE)
    (reason,) = read_both(guard, REFERENCE)
    assert "apStar-bad.fits ended 3 processes" in reason
    crash(guard, REFERENCE)  # who enqueues it again gets three more tries


def test_each_of_two_files_that_kill_gets_three_tries_and_no_more(guard: CrashGuard) -> None:
    deaths = 0
    while deaths < 20:
        try:
            reasons = read_both(guard, REFERENCE, OTHER)
            break
        except Killed:
            deaths += 1
    assert deaths == 5  # the first death tells of neither; two more of each
    assert len(reasons) == 2


def test_a_file_before_the_one_that_kills_is_innocent(guard: CrashGuard) -> None:
    for _ in range(3):
        crash(guard, OTHER)
    (reason,) = read_both(guard, OTHER)
    assert "apStar-good.fits ended 3 processes" in reason


def test_a_file_that_was_read_in_the_end_is_innocent(guard: CrashGuard) -> None:
    for _ in range(5):
        crash(guard, REFERENCE)
        crash(guard, REFERENCE)
        assert read_both(guard) == []


@pytest.mark.parametrize("error", [ValueError, MemoryError])
def test_an_error_of_reading_is_no_crash(guard: CrashGuard, error: type[Exception]) -> None:
    for _ in range(5):
        with pytest.raises(error), guard.serving(BAD) as reading, reading(REFERENCE):
            raise error


def test_a_file_that_was_rewritten_is_another_one(guard: CrashGuard) -> None:
    for _ in range(3):
        crash(guard, REFERENCE)
    rewritten = REFERENCE.model_copy(update={"file_version": "2"})
    with guard.serving(BAD) as reading, reading(rewritten):
        pass


def test_a_message_takes_two_round_trips_however_many_files(
    guard: CrashGuard, redis_socket: Path
) -> None:
    spectra = tuple(REFERENCE.model_copy(update={"job": n}) for n in range(30))
    message = LoadSpectra(lane="bulk", weights="w", spectra=spectra)
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:

        def commands() -> int:
            calls = client.info("commandstats").items()
            return sum(each["calls"] for name, each in calls if "info" not in name)

        read_both(guard)  # which connects
        before = commands()
        with guard.serving(message) as reading:
            for spectrum in spectra:
                with reading(spectrum):
                    pass
        assert commands() - before <= 4  # INCR and EXPIRE together, DEL


def test_neighbours_of_a_file_that_kills_get_their_labels(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = stream.path_of(stream.registered.jobs[0])

    def read(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == Path(poison).name:
            raise Killed
        return read_spectra(path, *arguments, **options)

    monkeypatch.setattr(worker.spectra.load, "read_spectra", read)
    stream.send()
    first = LoadSpectra.model_validate((stream.take("load.bulk") or ("", {}))[1])
    for _ in range(3):
        with pytest.raises(Killed):
            load_stage.load(first, stream.process)
    load_stage.load(first, stream.process)
    stream.drain()
    unlabelled = {job for job, (teff, *_) in stream.rows().items() if teff is None}
    assert unlabelled == {job for job in stream.registered.jobs if stream.path_of(job) == poison}
    assert all("ended 3 processes" in (stream.reasons()[job] or "") for job in unlabelled)

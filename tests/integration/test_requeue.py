"""Jobs that are sent again because somebody wants it, on a real Redis and real databases."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from producer.ledger.requeue import Selection, read_ids, requeue, take_back
from tests.integration.conftest import Stream
from worker.database.tables import AstroNN, JobState, now
from worker.errors import UsageError
from worker.messages import LoadSpectra, NoResult, failures_of
from worker.queues import QUEUES
from worker.stages import record as record_stage


def test_requeue_sends_spectra_without_labels_once_more(stream: Stream) -> None:
    stream.send()
    while taken := stream.take("load.bulk"):
        message = LoadSpectra.model_validate(taken[1])
        failures = failures_of(message.spectra, "The disk is away.")
        record_stage.no_result(NoResult(weights=message.weights, failures=failures), stream.process)
    assert requeue(stream.engine, Selection(no_result=True)) == 12
    assert stream.attempts() == {0}
    stream.send()
    stream.drain()
    assert all(teff is not None for teff, *_ in stream.rows().values())
    assert requeue(stream.engine, Selection(no_result=True)) == 0


def test_requeue_by_age_takes_what_was_sent_long_ago(stream: Stream) -> None:
    stream.send()
    stream.client.delete("load.bulk")
    assert requeue(stream.engine, Selection(older_than=timedelta(hours=1))) == 0
    stream.change_jobs(updated_at=now() - timedelta(hours=2))
    assert requeue(stream.engine, Selection(older_than=timedelta(hours=1)), lane="live") == 12
    stream.send()
    assert {queue: stream.client.llen(queue) for queue in QUEUES["load"]} == {
        "load.live": 2,
        "load.bulk": 0,
    }


def test_requeue_by_number_computes_anew_and_keeps_one_row(stream: Stream) -> None:
    stream.send()
    stream.drain()
    before = stream.rows()
    with stream.engine.connect() as connection:
        spectrum = connection.scalar(select(AstroNN.spectrum_pk).order_by(AstroNN.task_pk))
    assert requeue(stream.engine, Selection(spectra=[spectrum or 0])) == 1
    assert requeue(stream.engine, Selection(spectra=[])) == 0
    assert requeue(stream.engine, Selection(spectra=[spectrum or 0], tag="other")) == 0
    assert stream.send() == 1
    stream.drain()
    assert stream.rows() == before


def test_take_back_leaves_what_is_done(stream: Stream) -> None:
    first, *rest = stream.registered.jobs
    stream.send([first])
    stream.drain()
    stream.send(rest)
    take_back(stream.engine, stream.registered.jobs)
    assert stream.states() == {first: JobState.DONE} | dict.fromkeys(rest, JobState.WAITING)


def test_keys_come_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("12\n7\n\n3")
    assert read_ids(tmp_path / "ids") == [12, 7, 3]


@pytest.mark.parametrize("text", ["x", "1,2", "0", "-1", str(2**63), "1.5", "\udc80"])
def test_what_is_no_key_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids").write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError, match="--ids"):
        read_ids(tmp_path / "ids")
    with pytest.raises(UsageError, match="cannot be read"):
        read_ids(tmp_path / "none")

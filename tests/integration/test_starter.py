"""Weights of the package in the stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from producer.ledger.dispatcher import Dispatcher
from producer.ledger.served import check_stack, why_nothing_is_sent
from tests.conftest import Inputs
from tests.integration.conftest import Stream
from worker.database.session import transaction
from worker.database.tables import AstroNN, Job, Spectrum
from worker.errors import UsageError
from worker.identity import natural_key
from worker.labels import LABEL_NAMES
from worker.monitoring.status import read_status
from worker.results.noise_model import read_noise_model
from worker.settings import get_settings
from worker.starter import bundled
from worker.starter.bundled import STARTER
from worker.transport.served_weights import served_weights, tell_served


@pytest.fixture
def bare(stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stream:
    """A stream whose settings name neither weights nor corrections."""
    shipped = STARTER.weights
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    STARTER.weights.symlink_to(shipped)
    factors = {name: {"scale": 2, "offset": 3} for name in LABEL_NAMES}
    STARTER.corrections.write_text(json.dumps(factors))
    for name in ("MODEL", "CORRECTIONS"):
        monkeypatch.delenv(f"ASTRONN_STREAM_{name}")
    get_settings.cache_clear()
    stream.change_jobs(weights_sha256=stream.weights)
    return stream


def test_rows_of_the_starter_weights_have_their_name_and_their_noise_model(bare: Stream) -> None:
    bare.change_jobs(weights_name=STARTER.rows_name)
    with transaction(bare.engine) as session:
        job = session.get_one(Job, bare.registered.jobs[0])
        spectrum = session.get_one(Spectrum, job.spectrum_pk)
        spectrum.member = "apVisit-that-is-not-there.fits"
        spectrum.natural_key = natural_key(spectrum.path, spectrum.member)
    bare.send()
    bare.drain()
    with transaction(bare.engine) as session:
        rows = session.scalars(select(AstroNN)).all()
        assert {row.weights_name for row in rows} == {STARTER.rows_name}
        assert [row.flag_no_result for row in rows].count(True) == 1
        for row in rows:
            if not row.flag_no_result:
                assert row.e_teff == 2 * row.raw_e_teff + 3
                assert row.e_o_h == 2 * row.raw_e_o_h + 3


def test_corrections_that_are_given_win(
    bare: Stream, monkeypatch: pytest.MonkeyPatch, inputs: Inputs
) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_CORRECTIONS", str(inputs.corrections))
    get_settings.cache_clear()
    bare.send()
    bare.drain()
    sha256 = read_noise_model(inputs.corrections).sha256
    with transaction(bare.engine) as session:
        assert set(session.scalars(select(AstroNN.corrections_sha256))) == {sha256}


def test_a_dispatcher_says_what_its_stack_serves(bare: Stream) -> None:
    dispatcher = Dispatcher(bare.engine, bare.client, get_settings())
    assert dispatcher.step(bare.registered.jobs)  # as the dispatcher of a run
    assert served_weights(bare.client) == ()
    assert Dispatcher(bare.engine, bare.client, get_settings()).step()
    assert served_weights(bare.client) == (bare.weights,)
    assert bare.client.ttl("astronn-stream:weights") > 0


def test_weights_that_the_stack_does_not_serve_are_told(bare: Stream, tmp_path: Path) -> None:
    check_stack(get_settings(), bare.weights)  # no stack runs: it may come
    tell_served(bare.client, bare.weights)
    check_stack(get_settings(), bare.weights)
    tell_served(bare.client, "ab" * 32)
    with pytest.raises(UsageError, match="does not serve the starter weights"):
        check_stack(get_settings(), bare.weights)
    with pytest.raises(UsageError, match=r"does not serve own\.pt; give those of the stack"):
        check_stack(get_settings().changed(model=tmp_path / "own.pt"), "cd" * 32)
    check_stack(get_settings().changed(model=tmp_path / "own.pt"), "ab" * 32)


def test_a_look_at_redis_tells_whether_what_waits_is_sent(bare: Stream) -> None:
    settings = get_settings()
    assert why_nothing_is_sent(settings, bare.weights) == "No dispatcher answers."
    assert Dispatcher(bare.engine, bare.client, settings).step(bare.registered.jobs)
    assert why_nothing_is_sent(settings) == "No dispatcher answers.", "a run's sends its own alone"
    tell_served(bare.client, bare.weights)
    assert why_nothing_is_sent(settings, bare.weights) is None
    assert why_nothing_is_sent(settings) is None
    assert "serves other weights" in (why_nothing_is_sent(settings, "ab" * 32) or "")


def test_a_redis_that_is_away_is_named_as_the_reason(bare: Stream, tmp_path: Path) -> None:
    away = get_settings().changed(broker_url=f"redis+socket://{tmp_path}/none.sock")
    assert "Redis does not answer" in (why_nothing_is_sent(away, bare.weights) or "")


def test_status_names_what_is_served_and_counts_what_waits_for_others(bare: Stream) -> None:
    assert read_status(get_settings()).weights is None
    tell_served(bare.client, bare.weights)
    report = read_status(get_settings())
    assert report.weights_name == STARTER.rows_name
    assert report.other_weights == 0
    tell_served(bare.client, "ab" * 32)
    report = read_status(get_settings())
    assert report.weights_name == "ab" * 6
    assert report.other_weights == len(bare.registered.jobs)
    tell_served(bare.client, "ab" * 32, bare.weights)
    report = read_status(get_settings())
    assert report.other_weights == 0
    assert report.open_by_weights == {"ab" * 32: 0, bare.weights: len(bare.registered.jobs)}
    check_stack(get_settings(), bare.weights)

from __future__ import annotations

import pytest

from worker.outage import Outage


def test_an_outage_is_told_at_its_begin_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("load")
    outage.end()
    assert not outage.is_on
    assert caplog.messages == []
    for _ in range(3):
        outage.begin(ValueError("Redis is away."))
        assert outage.is_on
    outage.end()
    outage.end()
    outage.begin(ValueError("Redis is away \x1b[1magain.\n"))
    assert caplog.messages == [
        "action=load: waiting: Redis is away.",
        "action=load: goes on",
        "action=load: waiting: Redis is away ?[1magain.?",
    ]


def test_another_reason_is_told_but_not_another_number(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("load")
    for reason in ("Timeout after 3 s.", "Timeout after 4 s.", "It only reads.", "It only reads."):
        outage.begin(RuntimeError(reason))
    assert [record.message.split("waiting: ")[1] for record in caplog.records] == [
        "Timeout after 3 s.",
        "It only reads.",
    ]

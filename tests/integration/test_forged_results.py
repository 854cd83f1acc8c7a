"""Results that no network gives: they end no job, and cost the others of their message nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.integration.conftest import STAGES, Stream
from worker.database.tables import JobState
from worker.messages import RecordLabels
from worker.stages import record as record_stage

NAN, INFINITE = float("nan"), float("inf")


def to_record(stream: Stream) -> list[dict[str, Any]]:
    """The messages with labels that would come to the recorder next."""
    found = []
    while taken := stream.take("record"):
        assert taken[0] == "record"
        found.append(taken[1])
    return found


def inferred(stream: Stream) -> dict[str, Any]:
    """A message of several genuine results; the others' jobs are not sent."""
    stream.send(jobs=stream.registered.jobs[:3])
    for queue in ("load.bulk", "infer.bulk"):
        while taken := stream.take(queue):
            message_type, function = STAGES[taken[0]]
            function(message_type.model_validate(taken[1]), stream.process)  # type: ignore[operator]
    (message,) = to_record(stream)
    assert len(message["results"]) == 3
    return message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("raw_labels", NAN, "a label of nan"),
        ("raw_labels", -INFINITE, "a label of -inf"),
        ("raw_labels", 1e12, "a label of 1e+12"),
        ("raw_e_labels", -0.1, "an uncertainty of -0.1"),
        ("raw_e_labels", NAN, "an uncertainty of nan"),
        ("raw_labels", None, "labels without uncertainties, or uncertainties without labels"),
        ("raw_e_labels", None, "labels without uncertainties, or uncertainties without labels"),
        ("p_training", NAN, "a share of the training spectra of nan"),
        ("p_training", 1.01, "a share of the training spectra of 1.01"),
        ("t_elapsed", NAN, "a time of nan"),
    ],
)
def test_a_result_that_no_network_gives_ends_no_job(
    stream: Stream, field: str, value: float | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = inferred(stream)
    genuine = RecordLabels.model_validate(message)
    forged = message["results"][1]
    forged[field] = [*forged[field][:-1], value] if "labels" in field else value
    record_stage.record(RecordLabels.model_validate(message), stream.process)
    first, second, third = (each.job for each in genuine.results)
    assert stream.rows().keys() == {first, third}
    assert stream.states()[second] == JobState.QUEUED
    assert said in caplog.text
    record_stage.record(genuine, stream.process)  # as it comes when the job is sent again
    rows = stream.rows()
    assert rows.keys() == {first, second, third}
    assert all(teff is not None for teff, *_ in rows.values())


def test_a_result_without_any_label_ends_no_job(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    message = inferred(stream)
    message["results"][1] |= {"raw_labels": [None] * 22, "raw_e_labels": [None] * 22}
    record_stage.record(RecordLabels.model_validate(message), stream.process)
    assert len(stream.rows()) == 2
    assert "no label at all" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("mc_samples", 1), ("mc_samples", -4), ("seed", -1)])
def test_passes_and_seeds_that_no_run_has_are_no_message(
    stream: Stream, field: str, value: int
) -> None:
    message = inferred(stream) | {field: value}
    with pytest.raises(ValidationError, match=field):
        RecordLabels.model_validate(message)

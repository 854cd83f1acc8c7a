from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from worker.identity import mask_key, natural_key, stem
from worker.messages import (
    Failure,
    InferSpectra,
    JobNumber,
    LoadSpectra,
    Message,
    NoResult,
    RecordLabels,
    Setback,
    SpectrumLabels,
    SpectrumReference,
    Unread,
    failure_of,
    failures_of,
)

COADD = SpectrumReference(
    job=7,
    spectrum=11,
    file_version="5-9",
    path="r6/apStar-r6-2M00452143+1634446.fits",
    member="coadd",
    snr=143.25,
    mask_key="apStar-r6-2M00452143+1634446/coadd",
)
VISIT = SpectrumReference(
    job=8,
    spectrum=12,
    file_version="5-9",
    path="r6/apStar-r6-2M00452143+1634446.fits",
    member="apVisit-r6-6561-56587-131.fits",
    snr=None,
    mask_key="apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131",
)
LOAD = LoadSpectra(lane="live", weights="ab12", spectra=(COADD, VISIT))

SPECTRA = (
    '"spectra":['
    '{"job":7,"spectrum":11,"file_version":"5-9",'
    '"path":"r6/apStar-r6-2M00452143+1634446.fits","member":"coadd",'
    '"snr":143.25,"mask_key":"apStar-r6-2M00452143+1634446/coadd"},'
    '{"job":8,"spectrum":12,"file_version":"5-9",'
    '"path":"r6/apStar-r6-2M00452143+1634446.fits",'
    '"member":"apVisit-r6-6561-56587-131.fits",'
    '"snr":null,"mask_key":"apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"}]'
)
#: The form that workers of different releases share: changing it takes a new version.
PINNED: dict[str, tuple[Message, str]] = {
    "load": (LOAD, '{"version":3,"lane":"live","weights":"ab12",' + SPECTRA + "}"),
    "infer": (
        InferSpectra(
            lane="bulk",
            weights="ab12",
            array="astronn-stream:flux:00ff",
            load_seconds=0.1,
            spectra=(COADD, VISIT),
        ),
        '{"version":3,"lane":"bulk","weights":"ab12","array":"astronn-stream:flux:00ff",'
        '"load_seconds":0.1,' + SPECTRA + "}",
    ),
    "record": (
        RecordLabels(
            software="0.1.0+gab12",
            weights="ab12",
            mc_samples=100,
            seed=0,
            results=(
                SpectrumLabels(
                    job=7,
                    spectrum=11,
                    file_version="5-9",
                    natural_key=COADD.natural_key,
                    raw_labels=(4712.25, None, *[-0.5] * 20),
                    raw_e_labels=(31.5, None, *[0.1] * 20),
                    p_training=0.25,
                    t_elapsed=0.25,
                    t_overhead=0.05,
                ),
            ),
        ),
        '{"version":5,"software":"0.1.0+gab12","weights":"ab12","mc_samples":100,"seed":0,"results":[{"job":7,'
        '"spectrum":11,"file_version":"5-9","natural_key":"apStar-r6-2M00452143+1634446/coadd",'
        '"raw_labels":[4712.25,null' + ",-0.5" * 20 + "],"
        '"raw_e_labels":[31.5,null' + ",0.1" * 20 + "],"
        '"p_training":0.25,"t_elapsed":0.25,"t_overhead":0.05}]}',
    ),
    "no result": (
        NoResult(weights="ab12", failures=(failure_of(VISIT, "No flux in Ångström’s chip."),)),
        '{"version":3,"weights":"ab12","failures":[{"job":8,"spectrum":12,"file_version":"5-9",'
        '"natural_key":"apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131",'
        '"reason":"No flux in Ångström’s chip."}]}',
    ),
    "setback": (
        Setback(
            weights="ab12",
            failures=(failure_of(VISIT, "The array store does not answer."),),
            waiting=True,
        ),
        '{"version":3,"weights":"ab12","failures":[{"job":8,"spectrum":12,"file_version":"5-9",'
        '"natural_key":"apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131",'
        '"reason":"The array store does not answer."}],"waiting":true}',
    ),
    "unread": (Unread(unread=(JobNumber(job=7),)), '{"version":1,"unread":[{"job":7}]}'),
}

pinned = pytest.mark.parametrize(("message", "text"), PINNED.values(), ids=PINNED)


def changed(text: str, *path: str | int, **values: Any) -> str:
    """The JSON text with ``values`` put into the object that lies at ``path``."""
    content = part = json.loads(text)
    for step in path:
        part = part[step]
    part.update(values)
    return json.dumps(content)


@pinned
def test_the_serialised_form_is_pinned(message: Message, text: str) -> None:
    assert message.model_dump_json() == text


@pinned
def test_a_message_survives_the_round_trip(message: Message, text: str) -> None:
    assert type(message).model_validate_json(text) == message
    # The way through Celery: a dictionary of plain JSON values.
    through_celery = json.loads(json.dumps(message.model_dump(mode="json")))
    assert type(message).model_validate(through_celery) == message


@pinned
def test_an_unknown_field_is_refused(message: Message, text: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        type(message).model_validate_json(changed(text, extra=1))


@pinned
def test_an_unknown_field_of_a_part_is_refused(message: Message, text: str) -> None:
    parts = next(name for name, value in json.loads(text).items() if isinstance(value, list))
    with pytest.raises(ValidationError, match="extra_forbidden"):
        type(message).model_validate_json(changed(text, parts, 0, extra=1))


@pinned
@pytest.mark.parametrize("version", [0, 99, "2", "3", "5", None])
def test_another_version_is_refused(message: Message, text: str, version: object) -> None:
    with pytest.raises(ValidationError, match="version"):
        type(message).model_validate_json(changed(text, version=version))


@pinned
def test_a_missing_field_is_refused(message: Message, text: str) -> None:
    for name in json.loads(text).keys() - {"version"}:
        content = json.loads(text)
        del content[name]
        with pytest.raises(ValidationError, match="missing"):
            type(message).model_validate(content)


@pinned
def test_messages_do_not_change(message: Message, text: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        message.version = 4  # type: ignore[attr-defined]
    assert message.model_dump_json() == text


def test_an_unknown_lane_is_refused() -> None:
    with pytest.raises(ValidationError, match="lane"):
        LoadSpectra.model_validate_json(changed(LOAD.model_dump_json(), lane="slow"))


FLOATS = 2 * (
    0.1,
    1 / 3,
    math.pi * 1e300,
    5e-324,
    2.2250738585072014e-308,
    1.7976931348623157e308,
    -0.0,
    1 + 2**-52,
    123456789.12345678,
    -31.222209230000001,
    4712.25,
)


def test_floats_survive_json_to_the_last_bit() -> None:
    labels = SpectrumLabels(
        job=1,
        spectrum=1,
        file_version="1",
        natural_key="a/coadd",
        raw_labels=FLOATS,
        raw_e_labels=FLOATS[::-1],
        p_training=1 / 3,
        t_elapsed=0.1 + 0.2,
        t_overhead=1e-9 / 3,
    )
    message = RecordLabels(
        software="1", weights="w", mc_samples=2, seed=2**63 - 1, results=(labels,)
    )
    for text in (message.model_dump_json(), json.dumps(message.model_dump(mode="json"))):
        back = RecordLabels.model_validate_json(text)
        assert back.seed == 2**63 - 1
        (result,) = back.results
        assert [each.hex() for each in result.raw_labels if each is not None] == [
            each.hex() for each in FLOATS
        ]
        assert [each.hex() for each in result.raw_e_labels if each is not None] == [
            x.hex() for x in FLOATS[::-1]
        ]
        assert result.p_training == 1 / 3
        assert result.t_elapsed.hex() == (0.1 + 0.2).hex()
        assert result.t_overhead.hex() == (1e-9 / 3).hex()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("apStar-r6-2M00452143+1634446.fits", "apStar-r6-2M00452143+1634446"),
        ("deep/er/apStar-r6-x.fits.gz", "apStar-r6-x"),
        ("/absolute/apStar-1.2-apo25m-x.fits", "apStar-1.2-apo25m-x"),
        ("apVisit-r6-6561-56587-131", "apVisit-r6-6561-56587-131"),
        ("coadd", "coadd"),
    ],
)
def test_stem_is_the_name_without_folder_and_endings(name: str, expected: str) -> None:
    assert stem(name) == expected


@pytest.mark.parametrize("folder", ["", "a/", "/data/dr17/apo25m/", "../"])
@pytest.mark.parametrize("ending", ["", ".fits", ".fits.gz"])
def test_the_natural_key_does_not_depend_on_where_the_file_lies(folder: str, ending: str) -> None:
    path = f"{folder}apStar-r6-2M00452143+1634446{ending}"
    assert natural_key(path, "coadd") == "apStar-r6-2M00452143+1634446/coadd"
    assert (
        natural_key(path, f"apVisit-r6-6561-56587-131{ending}")
        == "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"
    )


_EXPOSURE = {"plate": "6561", "mjd": 56587, "fiber": 31}


@pytest.mark.parametrize("path", ["apStar-r6-2M1+1.fits", "dr17/lco25m/asStar-dr17-2M1+1.fits.gz"])
def test_the_mask_key_says_what_was_observed_and_not_in_which_file(path: str) -> None:
    assert mask_key(path, "coadd", "2M1+1") == "2M1+1/coadd"
    for member in ("apVisit-r6-6561-56587-031", "apVisit-dr17-apo25m-6561-56587-031.fits"):
        assert mask_key(path, member, obj="2M1+1", **_EXPOSURE) == "2M1+1/6561-56587-31"


@pytest.mark.parametrize("unknown", [None, "", 0, np.ma.masked], ids=repr)
@pytest.mark.parametrize("column", ["obj", "plate", "mjd", "fiber"])
def test_the_natural_key_seeds_the_masks_of_what_is_not_known(column: str, unknown: Any) -> None:
    path, member = "apStar-r6-2M1+1.fits", "apVisit-r6-56587-1m.fits"
    known = {"obj": "2M1+1", **_EXPOSURE, column: unknown}
    assert mask_key(path, member, **known) == natural_key(path, member)
    is_star_known = column != "obj"
    assert mask_key(path, "coadd", **known) == (
        "2M1+1/coadd" if is_star_known else "apStar-r6-2M1+1/coadd"
    )


def test_a_reference_knows_its_natural_key() -> None:
    assert COADD.natural_key == natural_key(COADD.path, "coadd")
    assert VISIT.natural_key != COADD.natural_key
    # The database's numbers do not count: another database names it alike.
    assert COADD.model_copy(update={"job": 1, "spectrum": 2}).natural_key == COADD.natural_key


def test_the_array_key_is_the_same_in_every_process() -> None:
    assert LOAD.array_key == LoadSpectra.model_validate_json(LOAD.model_dump_json()).array_key
    assert re.fullmatch(r"astronn-stream:flux:[0-9a-f]{32}", LOAD.array_key)
    # Worked out once, by `printf %s '<the pinned JSON>' | b2sum -l 128`.
    assert LOAD.array_key.endswith(":5797322d3768e3013000afff5694e43b")


@pytest.mark.parametrize(
    "other",
    [
        {"lane": "bulk"},
        {"weights": "ab13"},
        {"spectra": (COADD,)},
        {"spectra": (VISIT, COADD)},
        {"spectra": (COADD, VISIT, VISIT)},
        *(
            {"spectra": (COADD.model_copy(update={name: value}), VISIT)}
            for name, value in {
                "job": 9,
                "spectrum": 9,
                "file_version": "9",
                "path": "p",
                "member": "m",
                "snr": 9.0,
                "mask_key": "k",
            }.items()
        ),
    ],
    ids=str,
)
def test_the_array_key_differs_when_any_field_differs(other: dict[str, Any]) -> None:
    assert LOAD.model_copy(update=other).array_key != LOAD.array_key


def test_load_and_infer_lead_to_each_other() -> None:
    loaded = LOAD.loaded((VISIT,), 1.5)
    assert loaded == InferSpectra(
        lane="live", weights="ab12", array=LOAD.array_key, load_seconds=1.5, spectra=(VISIT,)
    )
    assert loaded.reload() == LoadSpectra(lane="live", weights="ab12", spectra=(VISIT,))


def test_one_reason_can_be_given_to_several_spectra() -> None:
    keys = {"file_version": "5-9", "reason": "Gone."}
    assert failures_of((COADD, VISIT), "Gone.") == (
        Failure(job=7, spectrum=11, natural_key=COADD.natural_key, **keys),
        Failure(job=8, spectrum=12, natural_key=VISIT.natural_key, **keys),
    )


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("apStar\0.fits", "apStar\N{REPLACEMENT CHARACTER}.fits"), ("a\udc80b", "a?b")],
)
def test_a_reason_is_text_that_every_database_takes(reason: str, kept: str) -> None:
    assert failure_of(COADD, reason).reason == kept


def test_a_reason_has_an_end() -> None:
    assert len(failure_of(COADD, "x" * 10**6).reason) == 10_000


@pytest.mark.parametrize(
    ("message", "place", "values"),
    [
        ("load", (), {"weights": "w" * 10_001}),
        ("load", (), {"spectra": [COADD.model_dump()] * 10_001}),
        ("load", ("spectra", 0), {"path": "p" * 10_001}),
        ("infer", (), {"array": "a" * 10_001}),
        ("record", ("results", 0), {"raw_labels": [0.0] * 23}),
        ("record", ("results", 0), {"raw_labels": [0.0] * 21}),
        ("no result", ("failures", 0), {"file_version": "v" * 10_001}),
    ],
)
def test_a_message_beyond_all_measure_is_refused(
    message: str, place: tuple[str | int, ...], values: dict[str, Any]
) -> None:
    kind, text = PINNED[message]
    with pytest.raises(ValidationError, match=r"too_long|too_short"):
        type(kind).model_validate_json(changed(text, *place, **values))


def test_messages_import_none_of_the_heavy_packages() -> None:
    program = """
import sys
import worker.messages
print(*sorted({"torch", "celery", "kombu", "sqlalchemy", "numpy", "astropy"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""

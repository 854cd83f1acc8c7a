from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, update
from typer.testing import CliRunner, Result

from producer.commands.main import command_line
from tests.inputs.repeat_database import WEIGHTS, fill
from tests.inputs.repeat_surveys import survey
from worker.calibration import read_repeats
from worker.calibration.read_repeats import choose_set, read_database, result_sets
from worker.database.session import opened, transaction
from worker.database.tables import AstroNN, Job, JobState, Spectrum, label_columns
from worker.errors import FatalError, UsageError
from worker.flags import ResultFlag, flag_uncertain
from worker.labels import LABEL_NAMES
from worker.messages import RecordLabels, SpectrumLabels
from worker.results import recalibration
from worker.results.noise_model import NoiseModel, SnrFactors
from worker.results.recalibration import Recalibrated, concerned, recalibrate
from worker.results.record import record_labels
from worker.settings import PREFIX, get_settings

ROWS = 120
FIRST = NoiseModel(np.linspace(0.5, 1.5, 22), np.full(22, 0.001), "first")
BY_SNR = NoiseModel(
    np.linspace(0.7, 9, 22),
    np.linspace(-0.0001, 0.3, 22),
    "by snr",
    tuple(SnrFactors(np.array([10.0, 50, 90]), np.array([3.0, 1 / 3, 0.1 + n])) for n in range(22)),
)


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """30 stars with four visits, labels near the limits of their flags; in slices of 50 rows."""
    monkeypatch.setattr(recalibration, "_ROWS_AT_ONCE", 50)
    monkeypatch.setenv(f"{PREFIX}DATABASE_URL", database_url)
    get_settings.cache_clear()
    visits = survey(0, 30, 4)
    visits.labels[:, 1] = np.linspace(0.1, 5, ROWS)
    visits.labels[:, LABEL_NAMES.index("fe_h")] = np.linspace(-2, 0.4, ROWS)
    visits.labels[7, LABEL_NAMES.index("fe_h")] = 0.0
    visits.snr[5] = np.nan
    with opened(database_url) as engine:
        fill(engine, visits)
        yield engine


def rows(engine: Engine, **where: Any) -> dict[int, dict[str, Any]]:
    """The rows by job, as they are in the database."""
    statement = select(AstroNN.__table__).filter_by(**where)
    with engine.connect() as connection:
        return {row["task_pk"]: dict(row) for row in connection.execute(statement).mappings()}


def apply(engine: Engine, model: NoiseModel, **arguments: Any) -> Recalibrated:
    tag = arguments.pop("tag", None)
    return recalibrate(engine, model, concerned(model, WEIGHTS, tag), **arguments)


def recorded_anew(engine: Engine, model: NoiseModel) -> dict[int, dict[str, Any]]:
    """What the recorder makes of the same labels under a noise model."""
    message = RecordLabels(
        software="1",
        weights=WEIGHTS,
        mc_samples=100,
        seed=0,
        results=tuple(
            SpectrumLabels(
                job=pk,
                spectrum=row["spectrum_pk"],
                file_version="1",
                natural_key=f"key {row['spectrum_pk'] - 1}",
                raw_labels=tuple(row[f"raw_{name}"] for name in LABEL_NAMES),
                raw_e_labels=tuple(row[f"raw_e_{name}"] for name in LABEL_NAMES),
                p_training=None,
                t_elapsed=0.5,
                t_overhead=0.1,
            )
            for pk, row in rows(engine).items()
        ),
    )
    with transaction(engine) as session:
        session.execute(update(Job).values(state=JobState.QUEUED))
        assert record_labels(session, message, model) == ROWS
    return rows(engine)


@pytest.mark.parametrize("model", [FIRST, BY_SNR], ids=["plain", "by S/N"])
def test_rows_are_as_if_they_had_been_recorded_so(engine: Engine, model: NoiseModel) -> None:
    before = rows(engine)
    result = apply(engine, model)
    assert result.rows == ROWS
    ours, recorders = rows(engine), recorded_anew(engine, model)
    names = [*label_columns(), "result_flags", "corrections_sha256"]
    for pk, row in recorders.items():
        assert {name: ours[pk][name] for name in names} == {name: row[name] for name in names}
        kept = before[pk].keys() - {
            *(name for name in label_columns() if name.startswith("e_")),
            *("result_flags", "corrections_sha256", "modified"),
        }
        assert {name: ours[pk][name] for name in kept} == {name: before[pk][name] for name in kept}
        assert ours[pk]["modified"] > before[pk]["modified"]


def test_flags_are_evaluated_anew_and_counted(engine: Engine) -> None:
    apply(engine, FIRST)
    before = rows(engine)
    result = apply(engine, BY_SNR)
    after = rows(engine)
    labels, e_labels = (
        np.array([[row[prefix + name] for name in LABEL_NAMES] for row in after.values()])
        for prefix in ("", "e_")
    )
    assert [row["result_flags"] for row in after.values()] == list(flag_uncertain(labels, e_labels))
    changes = [(before[pk]["result_flags"], after[pk]["result_flags"]) for pk in after]
    assert result.flags_changed == sum(old != new for old, new in changes) > 10
    for flag in ResultFlag:
        assert result.gained[flag] == sum(bool(~old & new & flag) for old, new in changes)
        assert result.lost[flag] == sum(bool(old & ~new & flag) for old, new in changes)
    assert result.gained[ResultFlag.UNCERTAIN_FE_H] > 0


def test_a_second_time_nothing_changes(engine: Engine) -> None:
    told: list[int] = []
    apply(engine, BY_SNR, finished=told.append)
    assert told == [50, 50, 20]
    once = rows(engine)
    assert apply(engine, BY_SNR) == Recalibrated()
    assert rows(engine) == once


def test_rows_of_others_and_without_labels_are_left_alone(engine: Engine) -> None:
    visits = survey(1, 30, 4)
    fill(engine, visits, tag="other")
    fill(engine, visits, weights="cd" * 32)
    with transaction(engine) as session:
        session.execute(
            update(AstroNN)
            .where(AstroNN.task_pk <= 7)
            .values(
                result_flags=ResultFlag.NO_RESULT.value,
                **dict.fromkeys(label_columns()),
            )
        )
    before = rows(engine)
    assert apply(engine, FIRST, tag="").rows == ROWS - 7
    after = rows(engine)
    changed = {pk for pk in after if after[pk] != before[pk]}
    assert changed == set(range(8, ROWS + 1))
    assert apply(engine, FIRST).rows == ROWS  # those of the other tag
    assert rows(engine, weights_sha256="cd" * 32) == {
        pk: row for pk, row in before.items() if row["weights_sha256"] == "cd" * 32
    }


def test_a_failure_leaves_all_as_it_was(engine: Engine) -> None:
    before = rows(engine)

    def fail(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(engine, FIRST, finished=fail)
    assert rows(engine) == before
    negative = NoiseModel(np.ones(22), np.full(22, 0.0), "negative")
    negative.offset[4] = -max(row["raw_e_n_h"] for row in before.values()) + 1e-9
    with pytest.raises(FatalError, match="e_n_h = -"):
        apply(engine, negative)
    assert rows(engine) == before


def test_where_all_passes_agreed_the_uncertainty_stays_zero(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(update(AstroNN).where(AstroNN.task_pk == 3).values(raw_e_n_h=0.0))
    changed = NoiseModel(np.full(22, 2.0), np.zeros(22), "twice")
    apply(engine, changed)
    assert rows(engine)[3]["e_n_h"] == 0.0
    shifted = NoiseModel(np.ones(22), np.zeros(22), "shifted")
    shifted.offset[4] = -1e-12
    with pytest.raises(FatalError, match="e_n_h = -1e-12"):
        apply(engine, shifted)


def test_what_is_recorded_meanwhile_is_neither_lost_nor_stuck(engine: Engine) -> None:
    """A recorder writes a row anew while it is being changed: it waits, and the last one holds."""
    row = rows(engine)[3]
    message = RecordLabels(
        software="1",
        weights=WEIGHTS,
        mc_samples=7,
        seed=0,
        results=(
            SpectrumLabels(
                job=3,
                spectrum=row["spectrum_pk"],
                file_version="1",
                natural_key=f"key {row['spectrum_pk'] - 1}",
                raw_labels=(5000.0, *[-1.0] * 21),
                raw_e_labels=(10.0, *[0.02] * 21),
                p_training=None,
                t_elapsed=0.5,
                t_overhead=0.1,
            ),
        ),
    )
    with transaction(engine) as session:
        session.execute(update(Job).where(Job.pk == 3).values(state=JobState.QUEUED))

    def record() -> None:
        with transaction(engine) as session:
            record_labels(session, message, FIRST)

    recorder = threading.Thread(target=record)

    def begin(_count: int) -> None:
        if not recorder.ident:
            recorder.start()
            recorder.join(0.3)
            assert recorder.is_alive()

    assert apply(engine, BY_SNR, finished=begin).rows == ROWS
    recorder.join(30)
    after = rows(engine)
    assert (after[3]["raw_teff"], after[3]["corrections_sha256"]) == (5000.0, "first")
    assert {each["corrections_sha256"] for pk, each in after.items() if pk != 3} == {"by snr"}
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(Job.state != JobState.DONE)) == 0


def test_of_a_large_survey_no_more_is_read_for_a_calibration(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_repeats, "MOST_VISITS", ROWS * 2 // 3)
    chosen = choose_set(result_sets(engine), None, None)
    assert len(read_database(engine, chosen, seed=0)) == ROWS // 2


# --- The command ---------------------------------------------------------------------------


def command(*arguments: object) -> Result:
    app = command_line(["recalibrate"])
    return CliRunner().invoke(app, ["recalibrate", *map(str, arguments)])


@pytest.fixture
def corrections(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, **entry: Any) -> Path:
        path = tmp_path / name
        path.write_text(
            json.dumps({label: {"scale": 1.0, "offset": 0.0} | entry for label in LABEL_NAMES})
        )
        return path

    return write


@pytest.mark.usefixtures("engine")
def test_the_command_tells_what_changed(corrections: Callable[..., Path]) -> None:
    path = corrections("large.json", offset=400.0)
    text = command(path).output
    assert text.startswith(f"{ROWS} rows recalibrated.\n{ROWS} rows changed flags (")
    assert f"flag_uncertain_teff: {ROWS} gained, 0 lost" in text
    text = command(path).output
    assert (
        text
        == f"0 rows recalibrated; {ROWS} had this noise model already.\n0 rows changed flags.\n"
    )


def test_the_noise_model_of_other_weights_is_refused(
    engine: Engine, corrections: Callable[..., Path]
) -> None:
    before = rows(engine)
    path = corrections("other.json")
    content = json.loads(path.read_text())
    for weights, status in ((WEIGHTS[::-1] + "1", 1), (WEIGHTS, 0)):
        path.write_text(json.dumps({**content, "about": {"weights_sha256": weights}}))
        done = command(path)
        assert done.exit_code == status
        if status:
            assert "is the noise model of other weights" in str(done.exception)
            assert rows(engine) == before


def test_the_command_wants_to_know_whose_rows(
    engine: Engine, corrections: Callable[..., Path]
) -> None:
    fill(engine, survey(1, 30, 4), weights="cd" * 32)
    failed = command(corrections("c.json")).exception
    assert isinstance(failed, UsageError)
    assert "choose one by --weights" in str(failed)
    assert {row["corrections_sha256"] for row in rows(engine).values()} == {None}
    assert command(corrections("c.json"), "--weights", "cd").output.startswith(f"{ROWS} rows")
    failed = command(corrections("c.json"), "--tag", "x").exception
    assert str(failed) == "There are no rows with labels under the tag 'x'."


def test_factors_by_snr_need_the_spectra(engine: Engine, corrections: Callable[..., Path]) -> None:
    path = corrections("snr.json", by_snr={"snr": [10.0, 100.0], "factor": [2.0, 1.0]})
    assert command(path).exit_code == 0
    with engine.connect() as connection:
        statement = select(AstroNN.e_teff, AstroNN.raw_e_teff, Spectrum.snr).join(
            Spectrum, Spectrum.pk == AstroNN.spectrum_pk
        )
        for e_teff, raw_e_teff, snr in connection.execute(statement):
            factor = 1.0 if snr is None else np.interp(snr, [10, 100], [2, 1])
            assert e_teff == pytest.approx(raw_e_teff * factor, rel=1e-12)

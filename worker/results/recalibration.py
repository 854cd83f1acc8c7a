"""Recalibration: another noise model for results that are in the database already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Engine, RowMapping, bindparam, func, select, update
from sqlalchemy.orm import Session

from worker.array_types import from_nulls, nulls
from worker.database.session import reading, transaction
from worker.database.tables import AstroNN, Spectrum, now
from worker.errors import FatalError
from worker.flags import DESCRIPTIONS, ResultFlag, flag_uncertain, flag_unlike_training
from worker.labels import LABEL_NAMES
from worker.results.noise_model import NoiseModel

_ROWS_AT_ONCE = 5000


@dataclass
class Recalibrated:
    """What a recalibration changed.

    Attributes
    ----------
    rows
        Rows with another noise model than before.
    flags_changed
        How many of them have other flags than before.
    gained, lost
        How many rows got each flag, and how many lost it.
    """

    rows: int = 0
    flags_changed: int = 0
    gained: dict[ResultFlag, int] = field(default_factory=lambda: dict.fromkeys(DESCRIPTIONS, 0))
    lost: dict[ResultFlag, int] = field(default_factory=lambda: dict.fromkeys(DESCRIPTIONS, 0))

    def count(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """Count some rows by their flags before and after."""
        self.rows += len(before)
        self.flags_changed += int((before != after).sum())
        for flag in DESCRIPTIONS:
            self.gained[flag] += int((~before & after & flag.value != 0).sum())
            self.lost[flag] += int((before & ~after & flag.value != 0).sum())


def concerned(
    noise_model: NoiseModel, weights_sha256: str, tag: str | None
) -> list[ColumnElement[bool]]:
    """Labelled rows of these weights, of one tag or of all, that another noise model made."""
    conditions = [
        ~AstroNN.flag_no_result,
        AstroNN.weights_sha256 == weights_sha256,
        AstroNN.corrections_sha256.is_distinct_from(noise_model.sha256),
    ]
    return conditions if tag is None else [*conditions, AstroNN.tag == tag]


def weights_of(database: Engine, tag: str | None) -> list[tuple[str, str, int]]:
    """SHA-256, name and number of rows of the weights that made labels."""
    statement = (
        select(AstroNN.weights_sha256, func.max(AstroNN.weights_name), func.count())
        .where(~AstroNN.flag_no_result)
        .group_by(AstroNN.weights_sha256)
        .order_by(AstroNN.weights_sha256)
    )
    if tag is not None:
        statement = statement.where(AstroNN.tag == tag)
    with reading(database) as connection:
        return [(sha256, name or "weights", n) for sha256, name, n in connection.execute(statement)]


def recalibrate(
    database: Engine,
    noise_model: NoiseModel,
    conditions: Sequence[ColumnElement[bool]],
    finished: Callable[[int], None] = lambda _count: None,
) -> Recalibrated:
    """Apply a noise model to results and evaluate their flags anew, in one transaction.

    It reads the network's own labels and uncertainties, and computes as the recorder does, so a
    row is the same to the last bit as if it had been recorded with this noise model. A row that
    was is left alone.

    Parameters
    ----------
    conditions
        Which rows; see :func:`concerned`.
    finished
        Told how many rows have been changed more.

    Raises
    ------
    FatalError
        An uncertainty would not be positive. Nothing is changed then, as with the next.
    TransientError
        The database is away, or another writer held it too long.
    """
    result = Recalibrated()
    with transaction(database) as session:
        last = -1
        while rows := _slice(session, conditions, last):
            last = rows[-1]["task_pk"]
            changes, flags = _changes(rows, noise_model)
            session.connection().execute(_UPDATE, changes)
            result.count(np.array([row["result_flags"] for row in rows]), flags)
            finished(len(rows))
    return result


def _slice(
    session: Session, conditions: Sequence[ColumnElement[bool]], last: int
) -> Sequence[RowMapping]:
    """The next rows in order, locked until the transaction ends (PostgreSQL)."""
    columns = [getattr(AstroNN, prefix + name) for prefix in _READ for name in LABEL_NAMES]
    statement = (
        select(*_OTHERS, *columns)
        .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
        .where(*conditions, AstroNN.task_pk > last)
        .order_by(AstroNN.task_pk)
        .limit(_ROWS_AT_ONCE)
        .with_for_update(of=AstroNN)
    )
    return session.execute(statement).mappings().all()


def _changes(
    rows: Sequence[RowMapping], noise_model: NoiseModel
) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """What is written into each row, and its new flags."""
    raw, raw_e = (
        from_nulls([[row[prefix + name] for name in LABEL_NAMES] for row in rows])
        for prefix in _READ
    )
    snr = np.array([row["snr"] for row in rows], dtype=np.float64)
    e_labels = noise_model.apply(raw_e, snr)
    if spoilt := noise_model.spoilt(raw_e, e_labels):
        row, what = next(iter(spoilt.items()))
        raise FatalError(
            f"This noise model gives {what}, for spectrum {rows[row]['spectrum_pk']}; nothing was "
            "changed."
        )
    p_training = np.array([row["p_training"] for row in rows], dtype=np.float64)
    flags = flag_uncertain(raw, e_labels) | flag_unlike_training(p_training)
    common = {"corrections_sha256": noise_model.sha256, "modified": now()}
    changes = [
        {
            "row": row["task_pk"],
            "result_flags": flag,
            **common,
            **dict(zip(_E_COLUMNS, nulls(e_label), strict=True)),
        }
        for row, flag, e_label in zip(rows, flags.tolist(), e_labels, strict=True)
    ]
    return changes, flags


_READ = ("raw_", "raw_e_")
_OTHERS = (
    *(AstroNN.task_pk, AstroNN.spectrum_pk, AstroNN.result_flags, AstroNN.p_training),
    Spectrum.snr,
)
_E_COLUMNS = [f"e_{name}" for name in LABEL_NAMES]
_UPDATE = (
    update(AstroNN.__table__)  # type: ignore[arg-type]
    .where(AstroNN.__table__.c.task_pk == bindparam("row"))
    .values(
        {
            name: bindparam(name)
            for name in ("result_flags", "corrections_sha256", "modified", *_E_COLUMNS)
        }
    )
)

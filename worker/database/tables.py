"""The tables: source, spectrum, job and astronn (the results), as typed SQLAlchemy models."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    TextClause,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker.flags import BAD, ResultFlag
from worker.labels import LABELS

#: SQLite numbers rows by itself only where the key is a plain INTEGER.
_Key = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC.

    SQLite forgets the time zone, so it is put back on the way out; PostgreSQL answers in the
    zone of its session.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Store every moment in UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Give every moment in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """The root of the models. Constraints have names, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Source(Base):
    """A star."""

    __tablename__ = "source"

    pk: Mapped[int] = mapped_column(_Key, primary_key=True)
    obj: Mapped[str] = mapped_column(Text, unique=True)
    ra: Mapped[float | None] = mapped_column(Double)
    dec: Mapped[float | None] = mapped_column(Double)


class Kind(StrEnum):
    """The two kinds of spectrum in an apStar file."""

    COADD = "coadd"
    VISIT = "visit"


class Spectrum(Base):
    """One coadd or visit: where it lies and what it is.

    ``path`` is relative to the data root, symbolic links followed; ``member`` is ``coadd`` or
    the visit's apVisit file name. ``file_version`` changes when the file is rewritten.
    ``unread_cards`` are those of its header whose values are missing here, being damaged.
    """

    __tablename__ = "spectrum"
    __table_args__ = (UniqueConstraint("path", "member"),)

    pk: Mapped[int] = mapped_column(_Key, primary_key=True)
    source_pk: Mapped[int | None] = mapped_column(ForeignKey("source.pk"), index=True)
    kind: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    member: Mapped[str] = mapped_column(Text)
    natural_key: Mapped[str] = mapped_column(Text, index=True)
    file_version: Mapped[str] = mapped_column(Text)
    release: Mapped[str | None] = mapped_column(Text)
    apred: Mapped[str | None] = mapped_column(Text)
    telescope: Mapped[str | None] = mapped_column(Text)
    field: Mapped[str | None] = mapped_column(Text)
    healpix: Mapped[int | None] = mapped_column(Integer)
    obj: Mapped[str | None] = mapped_column(Text)
    starver: Mapped[str | None] = mapped_column(Text)
    plate: Mapped[str | None] = mapped_column(Text)
    mjd: Mapped[int | None] = mapped_column(Integer)
    fiber: Mapped[int | None] = mapped_column(Integer)
    n_visits: Mapped[int | None] = mapped_column(Integer)
    snr: Mapped[float | None] = mapped_column(Double)
    spectrum_flags: Mapped[int | None] = mapped_column(BigInteger)
    unread_cards: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    modified: Mapped[datetime] = mapped_column(UtcDateTime)


class JobState(StrEnum):
    """Where a job stands.

    ``waiting`` in the ledger for its turn, ``queued`` in Redis or in a worker's hands, or
    ``done``: it has its row.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    DONE = "done"


#: Conditions of partial indexes. They stand in a query as they are here, for a database does not
#: look for an index by the value of a parameter.
OPEN = text("state <> 'done'")
UNLABELLED = text("no_result_reason IS NOT NULL")


def _partial_index(name: str, *columns: str, where: TextClause) -> Index:
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


class Job(Base):
    """The ledger: this spectrum is to be processed with these weights under this tag.

    ``file_version`` is the version of the file that the job was opened for; when the file is
    rewritten, the job is opened again. ``attempts`` counts how often it was sent, ``broker``
    says to which Redis; should that be gone, it is sent again past its ``deadline``.
    ``last_error`` is the last reason why it was late.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("spectrum_pk", "weights_sha256", "tag"),
        Index("ix_job_queue", "state", "lane", "weights_sha256", "pk"),
        _partial_index("ix_job_open", "lane", "updated_at", where=OPEN),
    )

    pk: Mapped[int] = mapped_column(_Key, primary_key=True)
    spectrum_pk: Mapped[int] = mapped_column(ForeignKey("spectrum.pk"))
    weights_sha256: Mapped[str] = mapped_column(Text)
    weights_name: Mapped[str | None] = mapped_column(Text)
    tag: Mapped[str] = mapped_column(Text)
    lane: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer)
    file_version: Mapped[str] = mapped_column(Text)
    enqueued_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    deadline: Mapped[datetime | None] = mapped_column(UtcDateTime)
    broker: Mapped[str | None] = mapped_column(Text)
    last_error: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)

    def wait_again(self, *, counted: bool) -> None:
        """Go back to wait; unless it is counted, as if it had not been sent."""
        self.state = JobState.WAITING
        self.updated_at = now()
        if not counted:
            self.attempts = max(0, self.attempts - 1)


class Tally(Base):
    """How many jobs there are of each state, lane and weights: the sum of its rows.

    Triggers keep it (migration 0004), so that `status` need not count a million jobs.
    """

    __tablename__ = "tally"

    pk: Mapped[int] = mapped_column(_Key, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    lane: Mapped[str] = mapped_column(Text)
    weights_sha256: Mapped[str] = mapped_column(Text)
    number: Mapped[int] = mapped_column(BigInteger)


class AstroNN(Base):
    """A result: one row for each job, with labels or with the reason why there are none.

    Its key is the job's, so a second row for one job cannot exist. Besides the columns
    written out here there are four for each label: ``teff``, ``e_teff``, ``raw_teff``,
    ``raw_e_teff`` and so on (see :func:`label_columns`); and ``flag_uncertain_teff`` and so on,
    which tell whether a bit of ``result_flags`` is set, for each flag. ``p_training`` is the share
    of the training spectra that are as unlike the others as this one, where that is known.
    """

    __tablename__ = "astronn"
    __table_args__ = (
        UniqueConstraint("spectrum_pk", "weights_sha256", "tag"),
        _partial_index("ix_astronn_unlabelled", "modified", where=UNLABELLED),
    )

    task_pk: Mapped[int] = mapped_column(
        _Key, ForeignKey("job.pk"), primary_key=True, autoincrement=False
    )
    spectrum_pk: Mapped[int] = mapped_column(ForeignKey("spectrum.pk"))
    source_pk: Mapped[int | None] = mapped_column(ForeignKey("source.pk"), index=True)
    weights_sha256: Mapped[str] = mapped_column(Text)
    weights_name: Mapped[str | None] = mapped_column(Text)
    tag: Mapped[str] = mapped_column(Text)
    software_version: Mapped[str] = mapped_column(Text)
    corrections_sha256: Mapped[str | None] = mapped_column(Text)
    mc_samples: Mapped[int | None] = mapped_column(Integer)
    seed: Mapped[int | None] = mapped_column(BigInteger)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    modified: Mapped[datetime] = mapped_column(UtcDateTime)
    t_elapsed: Mapped[float | None] = mapped_column(Double)
    t_overhead: Mapped[float | None] = mapped_column(Double)
    p_training: Mapped[float | None] = mapped_column(Double)
    result_flags: Mapped[int] = mapped_column(Integer, index=True)
    no_result_reason: Mapped[str | None] = mapped_column(Text)

    def _has(self, flags: ResultFlag) -> bool:
        return (self.result_flags & flags) == flags

    @classmethod
    def _sql_has(cls, flags: ResultFlag) -> ColumnElement[bool]:
        return cls.result_flags.bitwise_and(flags.value) == flags.value

    @hybrid_property
    def flag_no_result(self) -> bool:
        """There are no labels."""
        return self._has(ResultFlag.NO_RESULT)

    @flag_no_result.inplace.expression
    @classmethod
    def _sql_no_result(cls) -> ColumnElement[bool]:
        return cls._sql_has(ResultFlag.NO_RESULT)

    @hybrid_property
    def flag_bad(self) -> bool:
        """Gravity, temperature and metallicity are all uncertain."""
        return self._has(BAD)

    @flag_bad.inplace.expression
    @classmethod
    def _sql_bad(cls) -> ColumnElement[bool]:
        return cls._sql_has(BAD)

    @hybrid_property
    def flag_warn(self) -> bool:
        """Any flag is set."""
        return self.result_flags != 0

    @flag_warn.inplace.expression
    @classmethod
    def _sql_warn(cls) -> ColumnElement[bool]:
        return cls.result_flags != 0


#: The prefixes of a label's four columns: calibrated value and uncertainty, then the raw ones.
LABEL_PREFIXES = ("", "e_", "raw_", "raw_e_")


def label_columns() -> list[str]:
    """The names of the 88 label columns, label by label within each prefix."""
    return [prefix + label.name for prefix in LABEL_PREFIXES for label in LABELS]


def _add_label_columns(model: Any) -> None:
    for name in label_columns():
        setattr(model, name, mapped_column(name, Double, nullable=True))


def _add_flags(model: Any) -> None:
    for flag in set(ResultFlag) - {ResultFlag.NO_RESULT}:

        def is_set(row: Any, flag: ResultFlag = flag) -> Any:
            return row._has(flag)

        def sql_is_set(model: Any, flag: ResultFlag = flag) -> Any:
            return model._sql_has(flag)

        setattr(model, flag.column, hybrid_property(is_set, expr=sql_is_set))


_add_label_columns(AstroNN)
_add_flags(AstroNN)

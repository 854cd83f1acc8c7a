"""Reading the results of visits for a calibration: from the database, or from a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Engine, and_, func, select

from worker.calibration.repeats import Visits
from worker.database.session import reading
from worker.database.tables import AstroNN, Kind, Spectrum
from worker.errors import UsageError
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES
from worker.tables.results_file import integers, label_columns, results_file, texts, values

#: The scatter of so many is known to some 0.3 per cent; of larger surveys every k-th star is read.
MOST_VISITS = 100_000
_ROWS_AT_ONCE = 10_000
_NOT_KNOWN = -1


@dataclass(frozen=True)
class ResultSet:
    """Results that may be compared: those of the same weights under the same tag."""

    weights_sha256: str
    weights_name: str
    tag: str
    visits: int

    def __str__(self) -> str:
        tag = f"tag {self.tag!r}" if self.tag else "no tag"
        return f"{self.weights_name} ({self.weights_sha256[:12]}), {tag}, {self.visits} visits"


def choose_set(sets: list[ResultSet], weights: str | None, tag: str | None) -> ResultSet:
    """The one set that is meant.

    Parameters
    ----------
    weights
        The name of the weights, or the beginning of their SHA-256; None where there is no choice.
    tag
        The tag; None where there is no choice.

    Raises
    ------
    UsageError
        There is none, or more than one.
    """
    meant = [
        each
        for each in sets
        if (weights is None or matches(weights, each.weights_name, each.weights_sha256))
        and (tag is None or each.tag == tag)
    ]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise UsageError(f"There are no labels of visits {asked(weights, tag)}.")
    raise UsageError(
        "There are several sets of results, which cannot be compared; choose one by --weights "
        "(name, or beginning of the SHA-256) and --tag:\n" + "\n".join(map(str, meant))
    )


def matches(weights: str, name: str, sha256: str) -> bool:
    """Whether weights are those that the user calls so."""
    return weights == name or sha256.startswith(weights)


def asked(weights: str | None, tag: str | None) -> str:
    """What was asked for, as the end of a sentence."""
    parts = [] if weights is None else [f"from weights {weights}"]
    parts += [] if tag is None else [f"under the tag {tag!r}"]
    return " ".join(parts) or "here"


def result_sets(database: Engine) -> list[ResultSet]:
    """The sets of results of visits in a database."""
    statement = (
        select(
            AstroNN.weights_sha256,
            func.max(AstroNN.weights_name),
            AstroNN.tag,
            func.count(),
        )
        .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
        .where(Spectrum.kind == Kind.VISIT, ~AstroNN.flag_no_result)
        .group_by(AstroNN.weights_sha256, AstroNN.tag)
        .order_by(AstroNN.tag, AstroNN.weights_sha256)
    )
    with reading(database) as connection:
        return [
            ResultSet(sha256, name or "weights", tag, visits)
            for sha256, name, tag, visits in connection.execute(statement)
        ]


def read_database(database: Engine, chosen: ResultSet, seed: int) -> Visits:
    """The labelled visits of stars that have at least two; every k-th star of a large survey."""
    wanted = and_(
        Spectrum.kind == Kind.VISIT,
        ~AstroNN.flag_no_result,
        AstroNN.weights_sha256 == chosen.weights_sha256,
        AstroNN.tag == chosen.tag,
    )
    with reading(database) as connection:
        stars = _repeated(wanted)
        # PostgreSQL's sum is a Decimal, whose // rounds towards zero.
        total = int(connection.scalar(select(func.sum(stars.subquery().c.visits))) or 0)
        every = -(-total // MOST_VISITS)
        if every > 1:
            wanted = and_(wanted, AstroNN.source_pk % every == seed % every)
        repeated = _repeated(wanted).subquery()
        statement = (
            select(*_columns())
            .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
            .join(repeated, repeated.c.source_pk == AstroNN.source_pk)
            .where(wanted)
            .order_by(AstroNN.task_pk)
        )
        result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(statement)
        parts = [np.array(part, dtype=np.float64) for part in result.partitions()]
    return _visits(np.concatenate(parts) if parts else np.empty((0, len(_columns()))))


def _repeated(wanted: ColumnElement[bool]) -> Any:
    return (
        select(AstroNN.source_pk, func.count().label("visits"))
        .join(Spectrum, Spectrum.pk == AstroNN.spectrum_pk)
        .where(wanted, AstroNN.source_pk.is_not(None))
        .group_by(AstroNN.source_pk)
        .having(func.count() > 1)
    )


def _columns() -> list[Any]:
    """What is read of a visit, in the order of :func:`_visits`."""
    return [
        AstroNN.source_pk,
        func.coalesce(Spectrum.mjd, _NOT_KNOWN),
        func.coalesce(Spectrum.fiber, _NOT_KNOWN),
        Spectrum.snr,
        AstroNN.result_flags,
        *(
            getattr(AstroNN, prefix + name)
            for prefix in ("raw_", "e_", "raw_e_")
            for name in LABEL_NAMES
        ),
    ]


def _visits(rows: NDArray[np.float64]) -> Visits:
    labels, e_labels, raw_e_labels = np.split(rows[:, 5:], 3, axis=1)
    return Visits(
        star=rows[:, 0].astype(np.int64),
        observation=rows[:, 1:3].astype(np.int64),
        snr=rows[:, 3],
        flags=rows[:, 4].astype(np.int64),
        labels=labels,
        e_labels=e_labels,
        raw_e_labels=raw_e_labels,
    )


def read_results_table(
    path: Path, weights: str | None = None, tag: str | None = None, seed: int = 0
) -> tuple[ResultSet, Visits]:
    """The visits of a table such as ``export`` writes, and which results they are.

    Stars with one visit are left out, and of a large table every k-th star is taken, as of a large
    database.
    It needs ``raw_`` and ``raw_e_`` of all labels and the star, as ``source_pk`` or ``obj``.
    Without ``kind`` all rows are visits, without ``e_`` uncertainties are as the network gave them.

    Raises
    ------
    UsageError
        The table cannot be read, lacks a column, or holds several sets of results.
    """
    raw = [prefix + name for prefix in ("raw_", "raw_e_") for name in LABEL_NAMES]
    with results_file(path, [("source_pk", "obj"), *raw]) as columns:
        chosen, visits = _of_columns(columns, weights, tag)
    _, number, times = np.unique(visits.star, return_inverse=True, return_counts=True)
    visits = visits.only(times[number.reshape(-1)] > 1)
    every = max(1, -(-len(visits) // MOST_VISITS))
    return chosen, visits.only(visits.star % every == seed % every)


def _of_columns(
    columns: Mapping[str, Any], weights: str | None, tag: str | None
) -> tuple[ResultSet, Visits]:
    size = len(next(iter(columns.values())))
    told = {
        name: texts(columns, name, size, default)
        for name, default in (
            ("kind", Kind.VISIT.value),
            ("weights_sha256", ""),
            ("weights_name", ""),
            ("tag", ""),
        )
    }
    star = _stars(columns, size)
    flags = integers(columns, "result_flags", size, 0)
    labelled = (flags & ResultFlag.NO_RESULT.value) == 0
    visits = (told["kind"] == Kind.VISIT.value) & labelled & (star >= 0)
    chosen = choose_set(_sets(told, visits), weights, tag)
    visits &= (told["weights_sha256"] == chosen.weights_sha256) & (told["tag"] == chosen.tag)
    present = f"e_{LABEL_NAMES[0]}" in columns
    return chosen, Visits(
        star=star,
        observation=np.stack([integers(columns, name, size) for name in ("mjd", "fiber")], axis=1),
        snr=values(columns, "snr", size),
        flags=flags,
        labels=label_columns(columns, "raw_", size),
        e_labels=label_columns(columns, "e_" if present else "raw_e_", size),
        raw_e_labels=label_columns(columns, "raw_e_", size),
    ).only(visits)


def _sets(told: Mapping[str, NDArray[np.str_]], rows: NDArray[np.bool_]) -> list[ResultSet]:
    counts = Counter(
        zip(*(told[name][rows].tolist() for name in ("weights_sha256", "tag")), strict=True)
    )
    names = dict(zip(told["weights_sha256"].tolist(), told["weights_name"].tolist(), strict=True))
    return [
        ResultSet(sha256, names[sha256] or "weights", tag, count)
        for (sha256, tag), count in sorted(counts.items())
    ]


def _stars(columns: Mapping[str, Any], size: int) -> NDArray[np.int64]:
    """Numbers of the stars, -1 where a row names none."""
    if "source_pk" in columns:
        return integers(columns, "source_pk", size)
    names = texts(columns, "obj", size)
    number = np.unique(names, return_inverse=True)[1].reshape(-1)
    return np.where(names == "", _NOT_KNOWN, number)

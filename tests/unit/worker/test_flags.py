from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from tests.compose import ROOT
from worker.database.tables import AstroNN, Base, now
from worker.flags import BAD, DESCRIPTIONS, ResultFlag, flag_uncertain, flag_unlike_training
from worker.labels import LABEL_NAMES

LOGG, TEFF, FE_H = ResultFlag.UNCERTAIN_LOGG, ResultFlag.UNCERTAIN_TEFF, ResultFlag.UNCERTAIN_FE_H
NONE = ResultFlag(0)
ABOVE, BELOW = np.inf, -np.inf


def flags_of(**values: float) -> ResultFlag:
    """The flags of one certain star, of which some labels or uncertainties are changed."""
    star = {"teff": 4800.0, "logg": 2.5, "fe_h": -0.5, "e_teff": 50, "e_logg": 0.1, "e_fe_h": 0.02}
    star |= values
    labels, e_labels = np.ones((1, 22)), np.full((1, 22), 1e-3)
    for name in ("teff", "logg", "fe_h"):
        labels[0, LABEL_NAMES.index(name)] = star[name]
        e_labels[0, LABEL_NAMES.index(name)] = star[f"e_{name}"]
    (flags,) = flag_uncertain(labels, e_labels)
    return ResultFlag(int(flags))


def test_the_bits_are_those_of_the_specification() -> None:
    assert {flag.name: flag.value for flag in ResultFlag} == {
        "UNCERTAIN_LOGG": 1,
        "UNCERTAIN_TEFF": 2,
        "UNCERTAIN_FE_H": 4,
        "NO_RESULT": 2048,
        "UNLIKE_TRAINING": 65536,
    }
    assert DESCRIPTIONS[LOGG] == "e_logg > 0.2 and abs(e_logg / logg) > 0.075"
    assert DESCRIPTIONS[TEFF] == "e_teff > 300"
    assert DESCRIPTIONS[FE_H] == "abs(e_fe_h / fe_h) > 0.12"
    assert DESCRIPTIONS[ResultFlag.UNLIKE_TRAINING].startswith("p_training < 0.01: ")
    assert set(DESCRIPTIONS) == set(ResultFlag)
    assert BAD == LOGG | TEFF | FE_H


def test_a_certain_star_has_no_flags() -> None:
    assert flags_of() == NONE


@pytest.mark.parametrize(
    ("e_teff", "expected"),
    [(300.0, NONE), (np.nextafter(300, ABOVE), TEFF), (1e6, TEFF), (np.inf, TEFF), (0.0, NONE)],
)
def test_the_temperature_is_uncertain_above_300_kelvin(e_teff: float, expected: ResultFlag) -> None:
    assert flags_of(e_teff=e_teff) == expected


@pytest.mark.parametrize(
    ("logg", "e_logg", "expected"),
    [
        (1.0, 0.2, NONE),  # above the relative bound alone
        (1.0, np.nextafter(0.2, ABOVE), LOGG),
        (-1.0, np.nextafter(0.2, ABOVE), LOGG),  # the ratio's size counts, not its sign
        (5.0, 0.3, NONE),  # above the absolute bound alone
        (-5.0, 0.3, NONE),
        (4.0, np.nextafter(0.3, BELOW), NONE),
        (4.0, 0.3, NONE),  # 0.3 / 4 is 0.075 itself
        (4.0, 0.3000001, LOGG),
        (-4.0, 0.3000001, LOGG),
        (0.0, 0.2, NONE),  # infinite ratio, small uncertainty
        (0.0, 0.21, LOGG),
        (-0.0, 0.21, LOGG),
    ],
)
def test_the_gravity_is_uncertain_when_both_bounds_are_passed(
    logg: float, e_logg: float, expected: ResultFlag
) -> None:
    assert flags_of(logg=logg, e_logg=e_logg) == expected


@pytest.mark.parametrize(
    ("fe_h", "e_fe_h", "expected"),
    [
        (1.0, 0.12, NONE),
        (-1.0, 0.12, NONE),
        (1.0, np.nextafter(0.12, ABOVE), FE_H),
        (-1.0, np.nextafter(0.12, ABOVE), FE_H),
        (0.0, 0.02, FE_H),  # x / 0 is infinite
        (-0.0, 0.02, FE_H),
        (0.0, 0.0, FE_H),
        (1e-300, 0.02, FE_H),
        (0.5, 0.0, NONE),
    ],
)
def test_the_metallicity_is_uncertain_above_twelve_percent(
    fe_h: float, e_fe_h: float, expected: ResultFlag
) -> None:
    assert flags_of(fe_h=fe_h, e_fe_h=e_fe_h) == expected


@pytest.mark.parametrize("name", ["teff", "logg", "fe_h"])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_label_that_was_not_learnt_sets_no_flag(name: str, value: float) -> None:
    assert flags_of(**{name: value, f"e_{name}": np.nan}) == NONE
    assert flags_of(**{name: np.nan, f"e_{name}": 1e9}) == NONE


def test_flags_of_many_spectra_are_set_row_by_row() -> None:
    labels, e_labels = np.ones((4, 22)), np.full((4, 22), 1e-3)
    e_labels[1, LABEL_NAMES.index("teff")] = 301
    e_labels[2, LABEL_NAMES.index("logg")] = 0.3
    e_labels[3] = 1000
    assert flag_uncertain(labels, e_labels).tolist() == [0, TEFF, LOGG, BAD]


@pytest.mark.parametrize("name", sorted(set(LABEL_NAMES) - {"teff", "logg", "fe_h"}))
def test_no_other_label_sets_a_flag(name: str) -> None:
    labels, e_labels = np.ones((1, 22)), np.full((1, 22), 1e-3)
    labels[0, LABEL_NAMES.index(name)] = 0
    e_labels[0, LABEL_NAMES.index(name)] = 1e9
    assert flag_uncertain(labels, e_labels).tolist() == [0]


@pytest.mark.parametrize(
    ("p_training", "expected"),
    [
        (np.nextafter(0.01, BELOW), ResultFlag.UNLIKE_TRAINING),
        (0.0, ResultFlag.UNLIKE_TRAINING),
        (0.01, NONE),
        (1.0, NONE),
        (np.nan, NONE),
    ],
)
def test_a_spectrum_is_unlike_the_training_below_one_in_a_thousand(
    p_training: float, expected: ResultFlag
) -> None:
    assert flag_unlike_training(np.array([p_training])).tolist() == [expected]


def test_no_spectra_have_no_flags() -> None:
    assert flag_uncertain(np.empty((0, 22)), np.empty((0, 22))).tolist() == []


# --- The same flags in Python and in SQL ---------------------------------------------------

PROPERTIES = {
    "flag_uncertain_logg": lambda bits: bool(bits & 1),
    "flag_uncertain_teff": lambda bits: bool(bits & 2),
    "flag_uncertain_fe_h": lambda bits: bool(bits & 4),
    "flag_no_result": lambda bits: bool(bits & 2048),
    "flag_unlike_training": lambda bits: bool(bits & 65536),
    "flag_warn": lambda bits: bits != 0,
    "flag_bad": lambda bits: bits & 7 == 7,
}
COMBINATIONS = [low | high for high in (0, 2048, 65536, 67584) for low in range(8)]


def row(bits: int) -> AstroNN:
    return AstroNN(
        task_pk=bits,
        spectrum_pk=bits,
        weights_sha256="w",
        tag="",
        software_version="0",
        created=now(),
        modified=now(),
        result_flags=bits,
    )


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A database in memory with one row for each combination of the bits."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(row(bits) for bits in COMBINATIONS)
        session.commit()
        yield session
    engine.dispose()


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("bits", COMBINATIONS)
def test_properties_follow_the_bits_in_python_and_in_sql(
    session: Session, name: str, bits: int
) -> None:
    expected = PROPERTIES[name](bits)
    assert getattr(row(bits), name) is expected
    in_sql = session.scalar(select(getattr(AstroNN, name)).where(AstroNN.task_pk == bits))
    assert bool(in_sql) is expected


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_can_be_queried(session: Session, name: str) -> None:
    condition = getattr(AstroNN, name)
    query = select(AstroNN.task_pk).order_by(AstroNN.task_pk)
    wanted = [bits for bits in sorted(COMBINATIONS) if PROPERTIES[name](bits)]
    others = [bits for bits in sorted(COMBINATIONS) if not PROPERTIES[name](bits)]
    assert session.scalars(query.where(condition)).all() == wanted
    assert session.scalars(query.where(~condition)).all() == others
    assert len(wanted) in (4, 16, 31)


def test_the_table_of_the_readme_says_the_same() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(flag_\w+)` \| (\d+) \| (.+) \|$", readme, re.MULTILINE)
    assert [(name, 1 << int(bit)) for name, bit, _ in rows] == [
        (flag.column, flag.value) for flag in ResultFlag
    ]
    assert {name: text for name, _, text in rows if name != "flag_no_result"} == {
        flag.column: text for flag, text in DESCRIPTIONS.items() if flag != ResultFlag.NO_RESULT
    }

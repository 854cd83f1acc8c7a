from __future__ import annotations

import pytest
from astropy.table import Table
from sqlalchemy import Engine

from tests.inputs.conditions import CONDITIONS
from worker.errors import UsageError
from worker.results.read import read_table
from worker.results.where import condition


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_condition_keeps_the_rows_that_python_would(
    engine: Engine, table: Table, text: str
) -> None:
    kept = read_table(engine, where=condition(text))
    expected = [row["spectrum_pk"] for row in table if CONDITIONS[text](row)]
    assert kept["spectrum_pk"].tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "snr >",
        "kind = 'coadd'",
        "teff",
        "snr and teff",
        "teff > True",
        "kind > 3",
        "'a' + 1 > 2",
        "teff is 3",
        "teff in kind",
        "teff in (1, [2])",
        "teff & 1 == 1",
        "flag_bad + 1 > 2",
        "created > 'yesterday'",
        "mjd < 99999999999999999999",
        "10 ** 10 ** 10 > teff",
        "__import__('os').system('true')",
        "teff.real > 1",
        "(lambda: 1)() > 0",
        "(" * 900 + "snr" + ")" * 900,
        "-" * 190 + "snr > 0",
        "-(" * 45 + "snr" + ")" * 45 + " > 0",
        "mjd & teff == 1",
        "result_flags & 2.5 == 2",
        "obj == '\\0'",
        r"obj == '\ud800'",
        "created > '0001-01-01T00:00+10:00'",
    ],
)
def test_what_is_no_condition_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be understood; it looks like"):
        condition(text)


def test_a_mistyped_column_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match="no column tefff; did you mean teff"):
        condition("tefff > 5000")


def test_a_condition_of_endless_length_is_refused() -> None:
    with pytest.raises(UsageError, match="2000 characters"):
        condition("snr > 1 or " * 1000 + "flag_bad")


def test_a_condition_as_deep_as_they_may_be_can_be_asked(engine: Engine) -> None:
    assert len(read_table(engine, where=condition("-(" * 36 + "snr" + ")" * 36 + " > 0"))) == 5

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.inputs.conditions import CONDITIONS
from tests.inputs.result_rows import filled
from worker.errors import UsageError
from worker.results.read import read_table
from worker.results.where import condition


@pytest.fixture(scope="module")
def engine(postgres_server: str) -> Iterator[Engine]:
    """The rows of the unit tests in PostgreSQL."""
    with filled(postgres_server) as engine:
        yield engine


@pytest.mark.parametrize("text", CONDITIONS)
def test_postgresql_keeps_the_rows_that_python_would(engine: Engine, text: str) -> None:
    kept = read_table(engine, where=condition(text))
    expected = [row["spectrum_pk"] for row in read_table(engine) if CONDITIONS[text](row)]
    assert kept["spectrum_pk"].tolist() == expected


@pytest.mark.parametrize(
    "text", ["mjd * mjd > 1", "spectrum_pk + 9223372036854775807 > 1", "teff * 1e308 * 10 > 1"]
)
def test_what_no_number_holds_is_told_in_a_sentence(engine: Engine, text: str) -> None:
    with pytest.raises(UsageError, match=r"more than a number holds: .*out of range"):
        read_table(engine, where=condition(text))

"""The command `export`: results as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import ResultsTag, ResultsWhere
from producer.commands.screen import say
from worker.database.tables import Kind
from worker.errors import UsageError
from worker.settings import get_settings
from worker.signals import stopping_on_signals


def export(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="One table: .fits, .parquet, .csv, .ecsv, .vot"),
    ] = None,
    survey: Annotated[
        Path | None,
        typer.Option(
            "--survey",
            metavar="FOLDER",
            help="Coadds and visits apart, as astraAllStarAstroNN and astraAllVisitAstroNN.",
        ),
    ] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only these spectra.")] = None,
    tag: ResultsTag = None,
    where: ResultsWhere = None,
) -> None:
    """Write the results in the database as tables with units and descriptions."""
    from worker.database.session import existing
    from worker.results.read import RowSelection
    from worker.results.where import condition
    from worker.tables.export import write_results, write_survey

    wanted = RowSelection(kind=kind, tag=tag, where=None if where is None else condition(where))
    # A signal to stop must not leave half a table in a hidden folder.
    with stopping_on_signals(), existing(get_settings().database_url) as database:
        if out is not None and survey is None:
            written = [write_results(database, wanted, out)]
        elif survey is not None and out is None:
            written = write_survey(database, wanted, survey)
        else:
            raise UsageError("Say where to: --out FILE, or --survey FOLDER.")
    for each in written:
        text = f"{each.path}: {each.rows} rows"
        say(text)
        if each.notice is not None:
            say(each.notice, style="yellow")

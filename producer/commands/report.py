"""``astronn-stream report``: results in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import ResultsTag, ResultsWhere
from producer.commands.summary import write_page
from worker.errors import UsageError
from worker.reports.page.page import check_report


def report(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page, .html.")] = Path(
        "report.html"
    ),
    tag: ResultsTag = None,
    where: ResultsWhere = None,
) -> None:
    """Show results in one HTML file: summary, pictures, tables, reasons, provenance.

    It needs no network and nothing beside it. `run --report FILE` writes it of a run.
    """
    from worker.results import load_results

    check_report(out)
    results = load_results(tag=tag, where=where)
    if not len(results):
        raise UsageError("There are no such results; there is nothing to report.")
    chosen = {"Tag": tag, "Condition": where}
    write_page(out, results, [(name, value) for name, value in chosen.items() if value is not None])

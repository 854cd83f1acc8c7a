"""``astronn-stream report``: results in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import ResultsTag, ResultsWhere
from producer.commands.screen import console, progress_bar, telling_interruption
from producer.running.run import Outcome
from worker.errors import UsageError
from worker.reports.page.page import check_report, write_report

if TYPE_CHECKING:
    from astropy.table import Table


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
    _write(out, results, [(name, value) for name, value in chosen.items() if value is not None])


def report_run(path: Path, outcome: Outcome) -> None:
    """Write the report of a run."""
    told = f"{outcome.processed:,} spectra in {outcome.seconds:.1f} s"
    _write(path, outcome.table, [("Processed in this run", told)])


def _write(path: Path, results: Table, facts: Sequence[tuple[str, object]]) -> None:
    from worker.pictures.gallery import GALLERY

    with (
        telling_interruption("the report was not written"),
        progress_bar("Drawing", len(GALLERY)) as advance,
    ):
        write_report(path, results, facts, advance)
    console.print(f"{path}: open it in a browser", soft_wrap=True, markup=False)

"""The command `run`: apStar files in, a table of labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.notice import tell_simulated, tell_weights
from producer.commands.options import Corrections, Model, Paths, Tag, settings_with
from producer.commands.screen import progress_bar, reading, say, telling_interruption
from producer.commands.summary import print_outcome, write_page
from producer.ledger.plan import Plan
from producer.running.run import carry_out, results_of
from producer.sources.files import Wanted
from worker.database.session import existing
from worker.results.read import RowSelection
from worker.settings import ALSO
from worker.tables.export import check_output, write_results


def run(
    paths: Paths,
    out: Annotated[
        Path, typer.Option("--out", help="The table: .fits, .parquet, .csv, .ecsv or .vot.")
    ] = Path("labels.fits"),
    model: Model = None,
    corrections: Corrections = None,
    kind: Annotated[
        Wanted, typer.Option("--kind", help="Process coadds, visits, or both.")
    ] = "both",
    tag: Tag = "",
    serial: Annotated[
        bool, typer.Option("--serial", help="Use one process, without Redis and workers.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Also write an HTML page with summary, pictures and table: .html.",
        ),
    ] = None,
) -> None:
    """Turn apStar files into a table of labels.

    Brings up what is not there (an embedded redis-server, the workers, a SQLite database),
    processes every spectrum that has no result yet, writes the table, prints a summary and
    takes down what it brought up. After an interruption the same command goes on where it
    stopped. A spectrum that cannot be processed becomes a row that says why.
    """
    check_output(out)
    if report is not None:
        from worker.reports.page.page import check_report

        check_report(report)
    settings = settings_with(model, corrections).apart(*ALSO)
    plan = Plan.make(paths, settings, wanted=kind, tag=tag)
    if settings.broker_url is not None and not serial:
        from producer.ledger.served import check_stack

        check_stack(settings, plan.weights)
    tell_weights(plan.weights)
    tell_simulated(plan.weights, plan.files)
    with telling_interruption():
        outcome = carry_out(plan, serial=serial, headers=reading, bar=progress_bar)
    with existing(settings.database_url) as database:
        rows = write_results(database, RowSelection(jobs=outcome.jobs), out).rows
    print_outcome(outcome, plan.tag)
    say(f"{out}: {rows} rows")
    if report is not None:
        told = f"{outcome.processed:,} spectra in {outcome.seconds:.1f} s"
        write_page(report, results_of(outcome, plan), [("Processed in this run", told)])

"""The outcome of a command, as it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from producer.commands.screen import (
    console,
    progress_bar,
    progress_console,
    say,
    telling_interruption,
)
from worker.text import counted

if TYPE_CHECKING:
    from astropy.table import Table

    from producer.ledger.enqueue import Enqueued
    from producer.running.run import Outcome
    from worker.results.summary import Summary


def print_outcome(outcome: Outcome, tag: str) -> None:
    """Print how many spectra were processed, their flags, and why some have no labels."""
    summary = outcome.summary
    if outcome.processed == 0:
        say(
            f"Nothing to compute: all {summary.spectra} spectra have results"
            f"{f' under the tag {tag!r}' if tag else ''} already."
        )
    else:
        say(
            f"Processed {counted(outcome.processed, 'spectrum', 'spectra')} in "
            f"{outcome.seconds:.1f} s, {outcome.processed / outcome.seconds:.1f} per second"
            f"{_kept(summary, outcome)}."
        )
    _print_summary(summary)
    if outcome.other_provenance:
        say(
            f"{outcome.other_provenance} results were made before with another noise "
            "model, seed or number of MC samples and are kept as they are; use another --tag to "
            "compute them anew.",
            style="yellow",
        )


def _kept(summary: Summary, outcome: Outcome) -> str:
    kept = summary.spectra - outcome.processed
    return f"; {kept} had results already" if kept else ""


def _print_summary(summary: Summary) -> None:
    say(
        f"{counted(summary.spectra, 'spectrum', 'spectra')} ({counted(summary.coadds, 'coadd')}, "
        f"{counted(summary.visits, 'visit')}): {summary.labelled} with labels, "
        f"{summary.spectra - summary.labelled} without."
    )
    flags = ", ".join(f"{count} {name}" for name, count in summary.flagged.items())
    say(f"Flagged: {summary.warn} flag_warn ({flags}), {summary.bad} flag_bad.")
    for reason, count in summary.reasons.most_common():
        say(f"  {count} without labels: {reason}")


def print_enqueued(enqueued: Enqueued, *, skipped: bool) -> None:
    """Print what became of the spectra that were given, and which files are not there."""
    say(
        f"{counted(enqueued.spectra, 'spectrum', 'spectra')} in "
        f"{counted(enqueued.files, 'file')}: {enqueued.waiting} enqueued, "
        f"{enqueued.done} had results, {enqueued.under_way} were on their way already."
    )
    if enqueued.missing:
        what = "left out" if skipped else "each ends as a row that says so"
        names = ", ".join(enqueued.first_missing)
        more = ", ..." if enqueued.missing > len(enqueued.first_missing) else ""
        say(f"{counted(enqueued.missing, 'file')} named but not there ({what}): {names}{more}")


def print_labels(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Print the short table of labels against known ones."""
    from rich.table import Table as Screen

    from worker.reports.comparison_tables import SHORT_HEADINGS

    screen = Screen(title=title, title_justify="left")
    for heading in SHORT_HEADINGS:
        screen.add_column(heading, justify="left" if heading == "label" else "right")
    for row in rows:
        screen.add_row(*row)
    console.print(screen)


def tell_waiting(reason: str | None) -> None:
    """Say that spectra wait in the database, where there is a reason why nothing sends them."""
    if reason is not None:
        say(
            f"{reason} The spectra wait in the database until a stack that serves "
            "their weights runs on it (`astronn-stream up`).",
            to=progress_console,
        )


def write_page(path: Path, results: Table, facts: Sequence[tuple[str, object]]) -> None:
    """Write the page of some results, and say where it is."""
    from worker.pictures.gallery import GALLERY
    from worker.reports.page.page import write_report

    with (
        telling_interruption("the report was not written"),
        progress_bar("Drawing", len(GALLERY)) as advance,
    ):
        write_report(path, results, facts, advance)
    say(f"{path}: open it in a browser")

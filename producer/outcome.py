"""What a run came to, as the command line tells it."""

from __future__ import annotations

from producer.run import Outcome
from producer.terminal import console, counted
from worker.results.summary import Summary, summarise


def print_outcome(outcome: Outcome, tag: str) -> None:
    """Print how many spectra were processed, their flags, and why some have no labels."""
    summary = summarise(outcome.table)
    if outcome.processed == 0:
        console.print(
            f"Nothing to compute: all {summary.spectra} spectra have results"
            f"{f' under the tag {tag!r}' if tag else ''} already."
        )
    else:
        console.print(
            f"Processed {counted(outcome.processed, 'spectrum', 'spectra')} in "
            f"{outcome.seconds:.1f} s, {outcome.processed / outcome.seconds:.1f} per second"
            f"{_kept(summary, outcome)}."
        )
    _print_summary(summary)
    if outcome.other_provenance:
        console.print(
            f"[yellow]{outcome.other_provenance} results were made before with other "
            "corrections, seed or number of MC samples and are kept as they are; use another "
            "--tag to compute them anew.[/yellow]"
        )


def _kept(summary: Summary, outcome: Outcome) -> str:
    kept = summary.spectra - outcome.processed
    return f"; {kept} had results already" if kept else ""


def _print_summary(summary: Summary) -> None:
    console.print(
        f"{counted(summary.spectra, 'spectrum', 'spectra')} ({counted(summary.coadds, 'coadd')}, "
        f"{counted(summary.visits, 'visit')}): {summary.labelled} with labels, "
        f"{summary.spectra - summary.labelled} without.",
        soft_wrap=True,
    )
    flags = ", ".join(f"{count} {name}" for name, count in summary.flagged.items())
    console.print(
        f"Flagged: {summary.warn} flag_warn ({flags}), {summary.bad} flag_bad.", soft_wrap=True
    )
    for reason, count in summary.reasons.most_common():
        console.print(f"  {count} without labels: {reason}", soft_wrap=True, markup=False)

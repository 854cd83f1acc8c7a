"""The page: summary, pictures, results, what has no labels, provenance; all in one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from worker.atomic_file import check_place, replacing
from worker.errors import UsageError
from worker.labels import LABELS, Label, told_not_learnt
from worker.reports.page.html import Heading, Row, definitions, table, text
from worker.reports.page.rows import (
    FAILED_HEADINGS,
    MOST_FAILED,
    PROVENANCE_HEADINGS,
    failed_rows,
    known_labels,
    listed,
    provenance_rows,
    result_headings,
    result_rows,
)
from worker.results.summary import Summary, summarise
from worker.results.where import GOOD
from worker.tables.where import rows_where
from worker.version import software_version

if TYPE_CHECKING:
    from astropy.table import Table

    from worker.pictures.sample import Sample

#: Dots per inch of the pictures, each of which is in the page twice, light and dark.
_DPI = 100
_MOST_REASONS = 50
_HERE = Path(__file__).parent

#: Told that one more picture is drawn.
Advance = Callable[[int], None]


def check_report(path: Path) -> None:
    """Make sure, before the work is done, that a report can be written here.

    Raises
    ------
    UsageError
        The ending is not .html, or the folder is not there or cannot be written.
    """
    if path.suffix != ".html":
        raise UsageError(f"{path.name} must end in .html.")
    check_place(path)


def write_report(
    path: Path, results: Table, facts: Sequence[tuple[str, object]], advance: Advance
) -> None:
    """Write the page of a table of :func:`worker.results.read.read_table`.

    Parameters
    ----------
    facts
        Names and values that the summary begins with.
    advance
        Told of each picture that is drawn; there are as many as in
        :data:`worker.pictures.gallery.GALLERY`.

    Raises
    ------
    FatalError
        The file cannot be written.
    """
    content = page(results, facts, advance)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def page(results: Table, facts: Sequence[tuple[str, object]], advance: Advance) -> str:
    """The page as HTML; whatever is in the table, it is shown as text."""
    from worker.pictures.sample import COLUMNS, Sample

    style, script = ((_HERE / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    summary, positions, labels = summarise(results), listed(results), known_labels(results)
    good = rows_where(results.columns, GOOD, "results")
    sample = Sample.of({name: results[name] for name in COLUMNS})
    notice = results.meta.get("notice")
    return Template((_HERE / "page.html").read_text("utf-8")).substitute(
        policy=_policy(style, script),
        title="Stellar labels of APOGEE spectra",
        style=style,
        script=script,
        made=text(f"astronn-stream {software_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        notice=f'<p class="notice">{text(notice)}</p>' if notice else "",
        summary=definitions([*facts, *_summary(summary, int(good.sum()))]),
        pictures="\n".join(_pictures(sample, advance)),
        results_told=_results_told(summary, len(positions), labels),
        results=table(
            "result-table", "Results", result_headings(labels),
            result_rows(results, positions, labels, good), explored=True, choice=GOOD,
        ),
        failed_told=_failed_told(summary),
        reasons=_reasons(summary),
        failed=_failed(results, summary),
        provenance=table(
            "provenance-table", "Provenance", PROVENANCE_HEADINGS, provenance_rows(results),
            explored=False,
        ),
    )  # fmt: skip


def _policy(style: str, script: str) -> str:
    """What a browser may do: run this script and style, show pictures in the page, nothing else."""

    def allowed(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {allowed(style)}; "
        f"script-src {allowed(script)}; base-uri 'none'; form-action 'none'"
    )


def _summary(summary: Summary, good: int) -> Iterator[tuple[str, object]]:
    failed = summary.spectra - summary.labelled
    yield "Spectra", f"{summary.spectra:,} ({summary.coadds:,} coadds, {summary.visits:,} visits)"
    yield "With labels", f"{summary.labelled:,}"
    yield GOOD, f"{good:,}"
    yield "Without labels", f"{failed:,}"
    yield "flag_warn", f"{summary.warn:,}"
    yield from ((name, f"{count:,}") for name, count in summary.flagged.items())
    yield "flag_bad", f"{summary.bad:,}"


def _pictures(sample: Sample, advance: Advance) -> Iterator[str]:
    from worker.pictures.gallery import GALLERY
    from worker.pictures.style import DARK, LIGHT, NothingToDrawError, rendered

    for picture in GALLERY.values():
        try:
            light, dark = (
                f"data:image/png;base64,{base64.b64encode(content).decode()}"
                for content in (
                    rendered(picture.draw(sample, theme), "png", theme, _DPI)
                    for theme in (LIGHT, DARK)
                )
            )
            yield (
                f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
                f'<img src="{light}" alt="{text(picture.caption)}"></picture>'
                f"<figcaption>{text(picture.caption)}</figcaption></figure>"
            )
        except NothingToDrawError as reason:
            yield f'<p class="quiet">{text(picture.caption)}: not drawn. {text(reason)}</p>'
        advance(1)


def _results_told(summary: Summary, number: int, labels: Sequence[Label]) -> str:
    if not summary.labelled:
        return "No spectrum has labels."
    unknown = [label.name for label in LABELS if label not in labels]
    more = f" {told_not_learnt(unknown)}" if unknown else ""
    if number == summary.labelled:
        return f"All spectra that have labels.{more}"
    return (
        f"{number:,} of {summary.labelled:,} spectra that have labels, flagged ones first; "
        f"<code>astronn-stream export</code> writes all.{more}"
    )


def _failed_told(summary: Summary) -> str:
    failed = summary.spectra - summary.labelled
    if not failed:
        return "Every spectrum has labels."
    if failed <= MOST_FAILED:
        return "All spectra that could not be processed, and why."
    return f"The first {MOST_FAILED:,} of {failed:,} spectra that could not be processed, and why."


def _reasons(summary: Summary) -> str:
    """How often each reason occurs; the most common ones."""
    if not summary.reasons:
        return ""
    rows = (Row([count, reason]) for reason, count in summary.reasons.most_common(_MOST_REASONS))
    headings = (Heading("spectra", "number"), Heading("reason", "text"))
    return table("reason-table", "Reasons", headings, rows, explored=False)


def _failed(results: Table, summary: Summary) -> str:
    if summary.spectra == summary.labelled:
        return ""
    rows = failed_rows(results)
    return table("failed-table", "Without labels", FAILED_HEADINGS, rows, explored=True)

"""Pieces of HTML from texts that files bring: names in headers, reasons, file names."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.text import printable

#: More of a text is cut off, so that no header can make a page of any size.
_LONGEST = 200


@dataclass(frozen=True)
class Heading:
    """The head of a column: its name, and the class of its cells (number, text, flags or none)."""

    name: str
    sort: str = ""


@dataclass(frozen=True)
class Row:
    """The cells of a row, as plain texts.

    Where that is a question, whether it is flagged, and whether the table begins with it.
    """

    cells: Sequence[object]
    flagged: bool | None = None
    good: bool | None = None


def text(value: object) -> str:
    """A text as HTML shows it, on one line, never as markup."""
    line = printable(" ".join(str(value).split()))
    return html.escape(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…")


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """The inside of a list of names and what they mean."""
    return "\n".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs)


def table(
    key: str,
    caption: str,
    headings: Sequence[Heading],
    rows: Iterable[Row],
    *,
    explored: bool,
    choice: str | None = None,
) -> str:
    """A table that scrolls by itself where it is wide.

    Parameters
    ----------
    explored
        Whether the page's script is to sort, filter and page it.
    choice
        What the script calls the choice of good rows, which it shows first.
    """
    classes = [f' class="{heading.sort}"' if heading.sort else "" for heading in headings]
    head = "".join(
        f'<th scope="col"{given}>{text(heading.name)}</th>'
        for heading, given in zip(headings, classes, strict=True)
    )
    body = "\n".join(_row(row, classes) for row in rows)
    kind = ' class="explore"' if explored else ""
    kind += "" if choice is None else f' data-choice="{text(choice)}"'
    return (
        f'<div class="table" id="{key}" role="region" tabindex="0" aria-label="{text(caption)}">'
        f"<table{kind}><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(row: Row, classes: Sequence[str]) -> str:
    about = "".join(
        f' data-{name}="{"yes" if value else "no"}"'
        for name, value in (("flagged", row.flagged), ("good", row.good))
        if value is not None
    )
    cells = "".join(
        f"<td{given}>{text(cell)}</td>" for cell, given in zip(row.cells, classes, strict=True)
    )
    return f"<tr{about}>{cells}</tr>"

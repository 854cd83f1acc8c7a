"""What was measured, as tables on the screen and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from producer.bench.machine import Machine
from producer.bench.measured import Measured
from worker.errors import FatalError

#: Of the JSON file's form; another form takes the next number.
VERSION = 1

#: Each part: its title, and what stands below its table.
PARTS = {
    "engine": (
        "Inference: engines beside the plain loop of passes",
        "Peak: a new process that infers one batch (on a GPU, its memory). Floor: the operations "
        "behind the first dropout at the rate of a large matrix product, the largest layer in "
        "the engine's precision.",
    ),
    "load": (
        "Loading: one core, beside astropy and astroNN's continuum",
        "Peak: a new process that loads the spectra of one message. Floor: a spectrum's rows from "
        "the page cache, the arithmetic of the fit, and a division for each pixel.",
    ),
    "stream": (
        "The whole stream: from files to rows, beside a plain serial pipeline",
        "Peak: all processes together. Plain: astropy and astroNN for each row, the plain loop in "
        "batches of 64, a commit for each spectrum. Floor: that of inference, and that of loading "
        "shared by all cores. `run` includes the start of the workers; steady is from the first "
        "row to the last.",
    ),
    "live": (
        "One visit through an idle stream: from the file to the row",
        "Floor: loading one file and inferring one spectrum, measured alone.",
    ),
}

#: Of the column of cases and ways, in characters: a terminal has 80.
_WIDEST = 24
_COLUMNS: tuple[tuple[str, Callable[[Measured], str]], ...] = (
    ("rounds", lambda row: str(row.rounds)),
    ("ms\neach", lambda row: number(1e3 * row.seconds)),
    ("p99\nms", lambda row: "" if row.p99 is None else number(1e3 * row.p99)),
    ("per\nsecond", lambda row: number(row.per_second)),
    ("ratio", lambda row: number(row.ratio)),
    ("floor\nms", lambda row: number(1e3 * row.floor)),
    ("of the\nfloor", lambda row: f"{number(100 * row.reached)} %"),
    ("peak\nMB", lambda row: "" if row.peak_mb is None else f"{row.peak_mb:.0f}"),
)


def number(value: float) -> str:
    """A figure with two digits, and all of those before its point."""
    if math.isnan(value):
        return ""
    digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def screen(part: str, rows: Sequence[Measured]) -> Table:
    """The table of a part; columns in which nothing stands are left out."""
    title, caption = PARTS[part]
    table = Table(
        box=SIMPLE_HEAD,
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns = [column for column in _COLUMNS if any(map(column[1], rows))]
    table.add_column(max_width=_WIDEST)
    for heading, _ in columns:
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for case in dict.fromkeys(row.case for row in rows):
        table.add_row(Text(case, "bold"))
        for row in (row for row in rows if row.case == case):
            table.add_row(Text(f"  {row.way}"), *(text(row) for _, text in columns))
    return table


def as_json(
    machine: Machine, options: Mapping[str, Any], parts: Mapping[str, Sequence[Measured]]
) -> str:
    """All that was measured; times in seconds, memory in megabytes (2^20 bytes)."""
    document = {
        "version": VERSION,
        "machine": machine,
        "options": dict(options),
        "parts": {name: [_record(row) for row in rows] for name, rows in parts.items()},
    }
    return json.dumps(document, indent=1) + "\n"


def _record(row: Measured) -> dict[str, Any]:
    record = asdict(row) | {"per_second": row.per_second, "reached": row.reached}
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in record.items()
    }


def write(path: Path, text: str) -> None:
    """Write a text file.

    Raises
    ------
    FatalError
        It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FatalError(f"{path} cannot be written: {error.strerror}.") from error

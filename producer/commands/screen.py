"""What commands show while they work: progress on stderr, so that stdout holds the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from worker.signals import stopping_on_signals
from worker.text import printable

console = Console(highlight=False, emoji=False)
progress_console = Console(stderr=True, highlight=False, emoji=False)


def say(text: str, *, to: Console = console, style: str | None = None) -> None:
    """Print a line, which may hold what others wrote: names of files, reasons.

    Everything that is no table goes through here, so that no name steers the terminal or is
    taken for markup.
    """
    to.print(printable(text), soft_wrap=True, markup=False, style=style)


def tell_error(error: object) -> None:
    """Say on stderr why a command ends; further lines are set back, as one may be a file's name."""
    first, *others = str(error).expandtabs().split("\n")
    say(f"Error: {first}", to=progress_console)
    for line in others:
        say(f"    {line}", to=progress_console)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; calling what the context gives advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    watched = progress_console.is_terminal
    with Progress(
        *columns, console=progress_console, transient=True, disable=not watched
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def reading(files: Sequence[Path]) -> Iterator[Path]:
    """Files one after the other, with a bar that says how many headers have been read."""
    with progress_bar("Reading headers", len(files)) as advance:
        for file in files:
            yield file
            advance(1)


@contextmanager
def telling_interruption(
    what: str = "the same command goes on where it stopped",
) -> Iterator[None]:
    """Say what holds after Ctrl-C, and end with the exit code for it."""
    with stopping_on_signals():
        try:
            yield
        except KeyboardInterrupt:
            tell_error(f"interrupted; {what}.")
            sys.exit(130)

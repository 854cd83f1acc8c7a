"""The command `forget`: spectra that were registered by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import configured_database
from producer.commands.screen import say
from producer.ledger.forget import forget as forget_spectra
from producer.sources.names import Name, look_up, read_names
from worker.database.session import opened
from worker.errors import UsageError
from worker.file_names import name_as_text
from worker.settings import get_settings
from worker.text import counted


def forget(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Files and folders (by absolute paths if they are gone), or a spectrum_pk, "
            "natural_key, path or obj of the table of results.",
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            metavar="FILE",
            help="Such names, one a line; - reads them from the standard input.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be forgotten.")
    ] = False,
) -> None:
    """Delete spectra that were registered by mistake, with their jobs and results.

    All of them or, where one is under way, none. Files stay as they are; `enqueue` and a new
    start of `watch` register what they find, so take away first what is not to come back.
    """
    given = [*map(_named, names or []), *(read_names(ids) if ids is not None else [])]
    if not given:
        raise UsageError("Say which spectra: NAME... or --ids FILE.")
    data_root = get_settings().data_root
    with opened(configured_database()) as database:
        named = look_up(database, given, data_root)
        gone = forget_spectra(database, named, data_root, only_try=dry_run)
    say(
        f"{counted(gone.spectra, 'spectrum', 'spectra')} with {counted(gone.jobs, 'job')} and "
        f"{counted(gone.results, 'row')} of results {'would be ' if dry_run else ''}forgotten."
    )


def _named(text: str) -> Name:
    """An argument of the command line; a file's path may be of one that is gone."""
    path = Path(text)
    if path.is_absolute() or (not text.isdecimal() and path.exists()):
        return path
    return name_as_text(text)

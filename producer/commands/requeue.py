"""The command `requeue`: jobs that are to be done again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.screen import say
from producer.commands.summary import tell_waiting
from producer.ledger.requeue import Selection, read_ids
from producer.ledger.requeue import requeue as requeue_jobs
from producer.ledger.served import why_nothing_is_sent
from worker.database.session import exists, opened
from worker.errors import UsageError
from worker.queues import Lane
from worker.settings import get_settings
from worker.text import counted


def requeue(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="MINUTES",
            min=0,
            max=1e7,
            help="Jobs that were sent, or done, longer ago than this.",
        ),
    ] = None,
    no_result: Annotated[
        bool, typer.Option("--no-result", help="Jobs that ended without labels.")
    ] = False,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            metavar="FILE",
            help="Jobs of these spectra: their spectrum_pk, one a line; - reads them from the "
            "standard input. Their results are computed anew.",
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only jobs under this tag.")] = None,
    lane: Annotated[
        Lane | None, typer.Option("--lane", help="Send the spectra in this lane.")
    ] = None,
) -> None:
    """Let jobs be sent again: sent ones without a row, or with an option those without labels.

    The dispatcher does that by itself for what got lost; this is for whoever has repaired
    something. Options narrow each other.
    """
    if older_than is None and not no_result and ids is None:
        raise UsageError("Say which jobs: --older-than MINUTES, --no-result or --ids FILE.")
    selection = Selection(
        no_result=no_result,
        spectra=None if ids is None else read_ids(ids),
        older_than=None if older_than is None else timedelta(minutes=older_than),
        tag=tag,
    )
    settings = get_settings()
    if not exists(settings.database_url):
        raise UsageError("There is no database here yet; `astronn-stream enqueue` makes one.")
    with opened(settings.database_url) as database:
        count = requeue_jobs(database, selection, lane)
    say(f"{counted(count, 'job')} enqueued again.")
    if count:
        tell_waiting(why_nothing_is_sent(settings))

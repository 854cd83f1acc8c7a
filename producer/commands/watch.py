"""The command ``astronn-stream watch``: a folder is followed as a reduction fills it."""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from producer.commands.notice import tell_weights
from producer.commands.options import LaneOption, Model, settings_with
from producer.ledger.plan import Plan
from producer.ledger.served import check_stack
from producer.sources.paths import check_inside
from producer.watching.arrivals import Arrivals
from producer.watching.settling import Settling
from producer.watching.watch import Watch
from worker.database.session import open_database, wait_for_database
from worker.errors import UsageError
from worker.signals import stopping_on_signals


def watch(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to follow, with all folders below it.")
    ],
    model: Model = None,
    tag: Annotated[
        str,
        typer.Option(
            "--tag", help="A name for this set of results; under another name all is computed anew."
        ),
    ] = "",
    lane: LaneOption = "live",
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            metavar="SECONDS",
            min=0.05,
            max=3600,
            help="How long a file must have been the same before it counts; one that was renamed "
            "into place counts at once.",
        ),
    ] = 0.3,
    poll: Annotated[
        float | None,
        typer.Option(
            "--poll",
            metavar="SECONDS",
            min=0.1,
            max=86400,
            help="Look at the folders so often, instead of letting the kernel tell of changes "
            "(inotify). Network file systems are looked at every second without this.",
        ),
    ] = None,
) -> None:
    """Follow a folder and give every star file that arrives in it to a running stack.

    Goes on until Ctrl-C or SIGTERM. It begins with what lies in DIR and has no job yet, so
    nothing is missed between two starts. Files count that are named like a star's
    (`apStar-*.fits`, `asStar-*.fits`, also `.gz`), once nobody writes them any more and all
    their HDUs are there; one that stays incomplete for a minute becomes a row that says so. When
    a file is rewritten, its spectra are computed anew, and the old rows stay until the new ones
    replace them. Files that are deleted keep their rows.
    """
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/watch] %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells how it starts
    settings = settings_with(model)
    if not folder.is_dir():
        raise UsageError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}.")
    check_inside(folder, folder.resolve(), settings.data_root)
    plan = Plan.without_files(settings, wanted="both", tag=tag)
    if settings.model is None:  # named weights may be meant for a stack that is started later
        check_stack(settings, plan.weights)
    tell_weights(plan.weights)
    with suppress(KeyboardInterrupt), stopping_on_signals():
        wait_for_database(settings.database_url, "watch")
        database = open_database(settings.database_url)
        with closing(Arrivals(folder.absolute(), settings.data_root, poll)) as arrivals:
            Watch(arrivals, Settling(settle), plan, database, lane).run()

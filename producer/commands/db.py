"""The command `db`: the database's tables."""

from __future__ import annotations

import typer

from producer.commands.screen import say
from worker.settings import get_settings


def upgrade() -> None:
    """Bring the database's tables up to date; does nothing where they are."""
    from worker.database.session import opened

    with opened(get_settings().database_url):
        pass
    say("The database is up to date.")


db = typer.Typer(help="The database's tables.", no_args_is_help=True)
db.command()(upgrade)

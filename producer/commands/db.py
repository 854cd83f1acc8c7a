"""The command `db`: the database's tables."""

from __future__ import annotations

import typer

from producer.commands.options import configured_database
from producer.commands.screen import say
from worker.settings import get_settings


def upgrade() -> None:
    """Bring the database's tables up to date; does nothing where they are."""
    from worker.database.session import opened

    with opened(get_settings().database_url):
        pass
    say("The database is up to date.")


def downgrade() -> None:
    """Take back what this version changed of the tables, before the one before it is installed.

    Stop the stack first, and start nothing of this version afterwards: it would bring the
    tables up to date again.
    """
    from worker.database.session import downgrade as take_back
    from worker.database.session import existing

    with existing(configured_database()) as database:
        take_back(database)
    say("The database is as the version before this one made it.")


db = typer.Typer(help="The database's tables.", no_args_is_help=True)
db.command()(upgrade)
db.command()(downgrade)

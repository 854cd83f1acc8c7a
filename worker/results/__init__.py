"""Results: the noise model, the flags, and the rows and tables that are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["load_results"]


def load_results(
    database_url: str | None = None,
    *,
    kind: str | None = None,
    tag: str | None = None,
    where: str | None = None,
) -> Table:
    """The results in a database as an astropy table with units, in order of file.

    Parameters
    ----------
    database_url
        As in ``ASTRONN_STREAM_DATABASE_URL``, which is asked without it; such as
        ``sqlite:///astronn-stream.sqlite``.
    kind
        Only ``coadd`` or only ``visit``.
    tag
        Only the rows under this tag.
    where
        Only these rows, by any columns of the table: ``"snr > 100 and not flag_bad"``.

    Raises
    ------
    UsageError
        There is no such database or kind, or the condition cannot be understood.
    TransientError
        The database does not answer.
    """
    # Whoever needs a flag or the noise model alone need not wait for all of this.
    from worker.database.session import existing
    from worker.database.tables import Kind
    from worker.errors import UsageError
    from worker.results.read import read_table
    from worker.results.where import condition
    from worker.settings import get_settings

    if kind not in (None, *Kind):
        raise UsageError(f"There are spectra of kind 'coadd' and 'visit', none of kind {kind!r}.")
    wanted = None if where is None else condition(where)
    with existing(database_url or get_settings().database_url) as database:
        return read_table(database, kind=kind, tag=tag, where=wanted)

"""Watching a folder: the spectra of each star file that arrives, or is rewritten, are enqueued.

What is noticed is only a reason to look. What counts is the catalogue: a file that has a job for
each spectrum of its present version is done with, any other is registered. So a second start
finds what came meanwhile, and nothing is done twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from producer.ledger.plan import Plan
from producer.ledger.register import Registered, files_with_jobs, register_files
from producer.sources.paths import catalogue_path
from producer.watching.arrivals import WHOLE_LOOK_SECONDS, Arrivals, Sighting
from producer.watching.settling import Settling
from worker.database.session import reading
from worker.errors import TransientError
from worker.outage import Outage
from worker.queues import Lane
from worker.text import printable

logger = logging.getLogger(__name__)

#: Files that are compared with the catalogue, and registered, in one go.
_COMPARED_AT_ONCE = 500
_REGISTERED_AT_ONCE = 50
#: No more files are looked for while so many wait to be registered.
_MOST_SETTLING = 200
#: How often files that settle are looked at; and how long a step waits otherwise.
_SETTLING_SECONDS = 0.05
_IDLE_SECONDS = 0.5
#: From one try to the next while the database is away.
_RETRY_SECONDS = 1.0
#: Versions of files that are known to be registered, some 40 MB of memory.
_MOST_KNOWN = 500_000


class Watch:
    """Enqueues what arrives, step after step.

    Parameters
    ----------
    plan
        What is wanted of the files, and for which weights and tag.
    idle
        For how many seconds a step waits where nothing settles and nothing comes.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        settling: Settling,
        plan: Plan,
        database: Engine,
        lane: Lane,
        idle: float = _IDLE_SECONDS,
    ) -> None:
        self._arrivals = arrivals
        self._settling = settling
        self._plan = plan
        self._database = database
        self._lane: Lane = lane
        self._idle = idle
        self._root = plan.settings.data_root.resolve()
        self._found: list[Sighting] = []
        self._known: set[int] = set()
        self._known_since = time.monotonic()
        self._retry = float("-inf")
        self._outage = Outage("watch")

    def run(self) -> None:
        """Go on until a signal ends the process."""
        while True:
            self.step()

    def step(self) -> None:
        """One round: notice what comes, register what counts."""
        soon = self._settling.soon()
        noticed, found = self._arrivals.wait(
            _SETTLING_SECONDS if soon else self._idle,
            look=not self._found and soon < _MOST_SETTLING,
        )
        moment = time.monotonic()
        self._forget(moment)
        self._settle([each for each in noticed if not self._is_known(each)], moment)
        self._found += [each for each in found if not self._is_known(each)]
        if moment < self._retry:
            return
        try:
            self._compare(moment)
            self._register(moment)
            self._outage.end()
        except TransientError as error:
            self._outage.begin(error)
            self._retry = moment + _RETRY_SECONDS

    def _compare(self, moment: float) -> None:
        """Wait for those of the files found that the catalogue does not know as they are."""
        while self._found:
            part = self._found[:_COMPARED_AT_ONCE]
            names = [catalogue_path(Path(each.file), self._root) for each in part]
            with reading(self._database) as connection:
                registered = files_with_jobs(
                    connection, names, weights=self._plan.weights, tag=self._plan.tag
                )
            for name, each in zip(names, part, strict=True):
                if (name, each.version) in registered:
                    self._know(each)
                else:
                    self._settle([each], moment)
            del self._found[:_COMPARED_AT_ONCE]

    def _settle(self, sightings: Sequence[Sighting], moment: float) -> None:
        for each in sightings:
            self._settling.notice(each.file, each.version, moment, closed=each.closed)

    def _register(self, moment: float) -> None:
        """Register the files that count."""
        if counting := list(islice(self._settling.counting(moment), _REGISTERED_AT_ONCE)):
            self._enqueue([Sighting(*each) for each in counting])

    def _enqueue(self, counting: Sequence[Sighting]) -> None:
        plan = replace(self._plan, files=[Path(each.file) for each in counting])
        try:
            registered = register_files(self._database, plan, iter, self._lane)
        except SQLAlchemyError as error:
            if len(counting) > 1:  # one of them is to blame
                for each in counting:
                    self._enqueue([each])
                return
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            refusal = printable(f"the database refuses {counting[0].file}: {reason}")
            logger.error("action=watch: %s", refusal)
            registered = Registered([], [], [])
        for each in counting:
            self._settling.drop(each.file, each.version)
            self._know(each)
        logger.info(
            "action=watch files=%d spectra=%d enqueued=%d",
            len(counting),
            len(registered.jobs),
            len(registered.waiting_jobs),
        )

    def _forget(self, moment: float) -> None:
        """Ask the catalogue anew for each look at the whole folder: it may be an older one by now.

        That is so after a database was restored from a backup.
        """
        if moment - self._known_since >= WHOLE_LOOK_SECONDS:
            self._known.clear()
            self._known_since = moment

    def _is_known(self, sighting: Sighting) -> bool:
        return hash((sighting.file, sighting.version)) in self._known

    def _know(self, sighting: Sighting) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known.add(hash((sighting.file, sighting.version)))

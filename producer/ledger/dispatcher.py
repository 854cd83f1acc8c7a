"""The dispatcher: the one process that moves jobs between the ledger and the stream.

It releases what waits while there is room, and finds again what got lost. Several may run side
by side; none is needed for what was sent already.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from producer.ledger.reconcile import Reconciler
from producer.ledger.release import release, send
from worker.database.tally import shorten_tally
from worker.errors import TransientError
from worker.identity import weights_sha256
from worker.messages import WIRE
from worker.outage import Outage
from worker.settings import Settings
from worker.transport.broker import Broker
from worker.transport.served_weights import tell_served
from worker.transport.vitals import living_workers

logger = logging.getLogger(__name__)

#: How often it looks for what waits: a live spectrum waits half as long on average, and ten looks
#: a second take 2 % of a core.
_POLL_SECONDS = 0.1
#: How often Redis and the ledger are compared.
_RECONCILE_SECONDS = 2.0


class Dispatcher:
    """Releases and reconciles jobs, round after round.

    Parameters
    ----------
    client
        A connection to the broker's Redis.
    settings
        Only jobs for the weights that it serves are released: the others are for another stack
        on the same database.

    Raises
    ------
    FatalError
        The weights cannot be read.
    """

    def __init__(self, database: Engine, client: redis.Redis, settings: Settings) -> None:
        self._database = database
        self._client = client
        self._settings = settings
        self._broker = Broker(client, settings.broker)
        self._reconciler = Reconciler(database, self._broker, settings)
        self._weights = tuple(weights_sha256(file) for file in settings.weights_files)
        self._reconciled = float("-inf")
        self._turns = deque(self._weights)
        self._outage, self._versions = Outage("dispatch"), Outage("dispatch")

    def step(self, jobs: Sequence[int] | None = None, *, held_are_lost: bool = False) -> bool:
        """One round: put back what is lost, send what waits.

        Parameters
        ----------
        jobs, held_are_lost
            See :meth:`producer.ledger.reconcile.Reconciler.reconcile`.

        Returns
        -------
        bool
            False while the database or Redis is away; that is logged once.
        """
        try:
            if self._outage.is_on:
                self._reconciler.forget()
            self._step(jobs, held_are_lost)
        except (TransientError, SQLAlchemyError) as error:
            self._outage.begin(error)
            return False
        self._outage.end()
        return True

    def _step(self, jobs: Sequence[int] | None, held_are_lost: bool) -> None:
        if held_are_lost or time.monotonic() - self._reconciled > _RECONCILE_SECONDS:
            self._reconciler.reconcile(jobs, held_are_lost=held_are_lost)
            shorten_tally(self._database)
            self._broker.tell_alive()
            if jobs is None:  # with jobs of its own it is a run's, not the stack's
                tell_served(self._client, *self._weights)
            self._wanted = self._weights_wanted(living_workers(self._client))
            self._reconciled = time.monotonic()
        name = self._broker.name()
        self._turns.rotate()  # no weights' backlog shall take all the room for ever
        for weights in self._turns:
            if weights in self._wanted:
                sent = release(
                    self._database, send, self._settings, name, weights=weights, jobs=jobs
                )
                if sent:
                    logger.info("action=dispatch weights=%s spectra=%d", weights[:12], sent)

    def _weights_wanted(self, workers: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
        """The weights that inference takes; all of them where no worker says which.

        Spectra for others came straight back to wait, as would all while a worker lives that
        knows messages of other versions than ours.
        """
        foreign = [name for name, vitals in workers.items() if vitals.get("wire") != WIRE]
        if foreign:
            names = ", ".join(foreign)
            self._versions.begin(TransientError(f"another version of the software is at {names}."))
            return ()
        self._versions.end()
        served = {weights for each in workers.values() for weights in each.get("weights", ())}
        return [each for each in self._weights if each in served] if served else self._weights

    def run(self) -> None:
        """Go on until a signal ends the process."""
        while True:
            self.step()
            time.sleep(_POLL_SECONDS)

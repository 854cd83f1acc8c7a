"""The command `dispatcher`: what sends jobs to the workers."""

from __future__ import annotations

import logging
from contextlib import closing, suppress

from producer.commands.notice import tell_weights
from producer.ledger.dispatcher import Dispatcher
from worker.database.session import open_database
from worker.identity import weights_sha256
from worker.settings import get_settings
from worker.signals import stopping_on_signals
from worker.transport.client import waiting_client


def dispatcher() -> None:
    """Run the dispatcher: send what waits in the database, and again what got lost.

    A stack has one; more do no harm. It is configured by the environment, and feeds the
    workers that serve the weights of ASTRONN_STREAM_MODEL.
    """
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s: %(levelname)s/dispatcher] %(message)s"
    )
    settings = get_settings()
    tell_weights(weights_sha256(settings.weights_file))
    with (
        suppress(KeyboardInterrupt),
        stopping_on_signals(),
        closing(waiting_client(settings)) as client,
    ):
        Dispatcher(open_database(settings.database_url), client, settings).run()

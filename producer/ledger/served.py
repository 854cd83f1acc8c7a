"""Whether the stack that runs serves the weights that are asked for."""

from __future__ import annotations

from contextlib import closing, suppress

from worker.errors import TransientError, UsageError
from worker.settings import Settings
from worker.transport.client import broker_client
from worker.transport.served_weights import served_weights


def check_stack(settings: Settings, weights: str) -> None:
    """Make sure that a stack that runs serves these weights.

    Raises
    ------
    UsageError
        It serves others: its workers would refuse the jobs.
    """
    with suppress(TransientError), closing(broker_client(settings)) as client:
        if served_weights(client) not in (None, weights):
            missing = (
                "No weights are given, and the stack that runs here does not serve the starter "
                "weights"
                if settings.model is None
                else f"The stack that runs here does not serve {settings.model.name}"
            )
            raise UsageError(
                f"{missing}; give those of the stack with --model FILE or ASTRONN_STREAM_MODEL."
            )

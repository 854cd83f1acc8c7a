"""Whether a stack runs, and serves the weights that are asked for."""

from __future__ import annotations

from contextlib import closing, suppress

from worker.errors import StreamError, TransientError, UsageError
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
        served = served_weights(client)
        if served and weights not in served:
            missing = (
                "No weights are given, and the stack that runs here does not serve the starter "
                "weights"
                if settings.model is None
                else f"The stack that runs here does not serve {settings.model.name}"
            )
            raise UsageError(
                f"{missing}; give those of the stack with --model FILE or ASTRONN_STREAM_MODEL."
            )


def why_nothing_is_sent(settings: Settings, weights: str | None = None) -> str | None:
    """Why jobs that wait are not sent for now, as one look at Redis tells; None where they are.

    Parameters
    ----------
    weights
        Those of the jobs; None where jobs of any are meant.
    """
    try:
        with closing(broker_client(settings)) as client:
            served = served_weights(client)
    except StreamError as error:
        return str(error)
    if not served:
        return "No dispatcher answers."
    if weights is not None and weights not in served:
        return "The stack that runs here serves other weights."
    return None

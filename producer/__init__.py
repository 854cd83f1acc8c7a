"""What is to be processed: finding spectra, registering them, opening and dispatching jobs.

``from producer import enqueue`` is how another pipeline gives spectra to a stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.ledger.enqueue import Enqueued, enqueue

__all__ = ["Enqueued", "enqueue"]


def __getattr__(name: str) -> object:
    """Import what it takes only once somebody wants it."""
    if name in __all__:
        from producer.ledger import enqueue as intake

        return getattr(intake, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

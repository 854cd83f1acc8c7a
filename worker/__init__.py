"""How a spectrum is processed: load, infer, record.

``from worker import infer, load_results``: labels of arrays of spectra, and the results in a
database, each as a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.inference.arrays import infer
    from worker.results import load_results

__all__ = ["infer", "load_results"]


def __getattr__(name: str) -> object:
    """Import what it takes only once somebody wants it."""
    if name == "infer":
        from worker.inference.arrays import infer

        return infer
    if name == "load_results":
        from worker.results import load_results

        return load_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Showing how far the work is: types of progress bars, and one that shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

#: Called with how many more are finished.
Finished = Callable[[int], None]
#: Opens a progress bar, given its title and the total.
Bar = Callable[[str, int], AbstractContextManager[Finished]]


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Finished]:  # noqa: ARG001 - a Bar
    """A progress bar that shows nothing."""
    yield lambda _: None


#: Passes files on one by one, showing how many are left.
Reading = Callable[[Sequence[Path]], Iterator[Path]]

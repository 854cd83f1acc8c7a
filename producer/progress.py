"""How work tells whoever watches how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

#: Told of so many that are finished.
Finished = Callable[[int], None]
#: Shows how much of a total is finished, given what it is called.
Bar = Callable[[str, int], AbstractContextManager[Finished]]


@contextmanager
def no_bar(what: str, total: int) -> Iterator[Finished]:  # noqa: ARG001 - a Bar
    """Nobody watches."""
    yield lambda _: None


#: Gives files on, showing how many are left.
Reading = Callable[[Sequence[Path]], Iterator[Path]]

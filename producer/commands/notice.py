"""What commands say about weights that come with the package."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from producer.commands.screen import say
from worker.errors import SpectrumError
from worker.starter.bundled import STARTER, bundled_with

#: Files that are looked at before a command says what they are.
_LOOKED_AT = 3
_SIMULATED = (
    "These spectra are simulated, of stars that the starter weights do not know: "
    "--model demonstration has weights for them."
)


def tell_weights(weights: str) -> None:
    """Say what the weights with this SHA-256 are good for, where they come with the package."""
    from worker.network.weights.notice import notice_of

    if notice := notice_of(weights):
        say(notice, style="yellow")


def tell_simulated(weights: str, files: Iterable[Path]) -> None:
    """Point to the demonstration weights where the starter is given the simulator's own stars.

    Parameters
    ----------
    files
        The first of them are looked at.
    """
    if bundled_with(weights) is STARTER and any(map(_is_simulated, islice(files, _LOOKED_AT))):
        say(_SIMULATED, style="yellow")


def _is_simulated(file: Path) -> bool:
    from worker.spectra.formats import read_header

    try:
        return read_header(file).of_line_list
    except (SpectrumError, MemoryError):
        return False

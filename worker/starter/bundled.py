"""The two sets of weights that come with the package: the starter's and the demonstration's.

Rows and commands say which of them made a label, for neither is for publication.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from worker.identity import weights_sha256
from worker.labels import LABELS

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Bundled:
    """Weights that come with the package.

    Attributes
    ----------
    name
        What ``--model`` calls them, and their files.
    rows_name
        The ``weights_name`` in rows that they made.
    older_names
        What older versions called the same file in rows.
    about
        What commands that use them say of them, with the numbers of ``labels`` and of those
        ``not_learnt``.
    """

    name: str
    rows_name: str
    older_names: tuple[str, ...]
    about: str

    @property
    def weights(self) -> Path:
        """The checkpoint."""
        return FOLDER / f"{self.name}.pt"

    @property
    def corrections(self) -> Path:
        """The noise model that belongs to these weights, and to no others."""
        return FOLDER / f"{self.name}.corrections.json"

    def notice(self, not_learnt: int) -> str:
        """What commands that use them say, in one line.

        Parameters
        ----------
        not_learnt
            How many labels the checkpoint names as not learnt.
        """
        about = self.about.format(labels=len(LABELS), not_learnt=not_learnt)
        return f"Using the {self.name} weights: {about}"


#: Used where no others are given.
STARTER = Bundled(
    name="starter",
    rows_name="starter weights (trained on models of real APOGEE spectra: Teff, log g, [Fe/H] and "
    "one alpha; for a first look, not for publication)",
    older_names=(),
    about="trained on models of real APOGEE spectra, for a first look; {not_learnt} of {labels} "
    "labels are not learnt. For publication give the published weights with --model FILE; "
    "docs/weights.md says where they are.",
)
#: Used by ``demo``, and where labels of simulated spectra are compared with the truth.
DEMONSTRATION = Bundled(
    name="demonstration",
    rows_name="demonstration weights (simulated spectra; demonstration and testing only)",
    older_names=(
        "starter weights (simulated spectra; demonstration and testing only)",
        "starter weights (made-up spectra; demonstration and testing only)",
    ),
    about="{labels} labels for the simulator's own stars; the labels that they give real stars "
    "mean nothing.",
)
BUNDLED = (STARTER, DEMONSTRATION)
_BY_NAME = {each.name: each for each in BUNDLED}
_BY_ROWS_NAME = {name: each for each in BUNDLED for name in (each.rows_name, *each.older_names)}


def weights_path(given: Path | str) -> Path:
    """The file of weights that a user names: by ``starter``, ``demonstration``, or its path.

    A name goes before a file of that name in the working folder, which is ``./starter``.
    """
    if bundled := _BY_NAME.get(str(given)):
        return bundled.weights
    path = Path(given)
    # A Path forgets the dot that makes it no name.
    return path.absolute() if str(path) in _BY_NAME else path


def bundled_with(sha256: str) -> Bundled | None:
    """The bundled weights with this SHA-256, wherever their file lies; None for all others."""
    # A site may remove them: with weights of one's own they are not needed.
    there = (each for each in BUNDLED if each.weights.is_file())
    return next((each for each in there if sha256 == weights_sha256(each.weights)), None)


def weights_name(path: Path, sha256: str) -> str:
    """What rows call the weights of a file: its name, or which of the bundled weights they are."""
    if bundled := bundled_with(sha256):
        return bundled.rows_name
    return path.name.encode(errors="backslashreplace").decode()  # databases want UTF-8


def rows_of_bundled(names: Iterable[str]) -> Counter[str]:
    """How many rows come from which bundled weights, by their names in rows of today."""
    return Counter(_BY_ROWS_NAME[name].rows_name for name in names if name in _BY_ROWS_NAME)

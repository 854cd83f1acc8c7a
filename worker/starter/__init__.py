"""The starter weights, which are used where no others are given.

They were trained on simulated spectra, so that the stream can be tried and tested at once; the
README beside them says how. Their labels of real stars mean nothing, and every row says so.
"""

from __future__ import annotations

from pathlib import Path

from worker.identity import weights_sha256

STARTER_WEIGHTS = Path(__file__).parent / "starter.pt"
#: The noise model that belongs to them, and to no others.
STARTER_CORRECTIONS = Path(__file__).parent / "starter.corrections.json"

#: The ``weights_name`` in rows that these weights made.
STARTER_NAME = "starter weights (simulated spectra; demonstration and testing only)"
#: All names of these weights in rows; older databases have the second one.
STARTER_NAMES = (
    STARTER_NAME,
    "starter weights (made-up spectra; demonstration and testing only)",
)
NOTICE = (
    "Using the starter weights: trained on simulated spectra, for demonstration and testing; "
    "for science give --model FILE or set ASTRONN_STREAM_MODEL."
)


def is_starter(sha256: str) -> bool:
    """Whether the weights with this SHA-256 are the starter weights, wherever their file lies."""
    # A site may remove them: with weights of one's own they are not needed.
    return STARTER_WEIGHTS.is_file() and sha256 == weights_sha256(STARTER_WEIGHTS)


def weights_name(path: Path, sha256: str) -> str:
    """What rows call the weights of a file: its name, or that they are the starter weights."""
    if is_starter(sha256):
        return STARTER_NAME
    return path.name.encode(errors="backslashreplace").decode()  # databases want UTF-8

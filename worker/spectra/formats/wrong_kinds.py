"""Files that are mistaken for apStar files: what they are, and what to give instead."""

from __future__ import annotations

import re

APVISIT = (
    "is an apVisit file; the network reads apStar files, which hold the same visit resampled to "
    "the rest frame"
)
PACKED_IMAGES = (
    "holds images that are packed in tables, as fpack does it; unpack it with funpack and give "
    "the .fits file"
)
#: Said of what a file is called, before any of it is looked into.
_BY_NAME = (
    (r".*\.fz", PACKED_IMAGES),
    (
        r"aspcapStar-.*",
        "is an aspcapStar file: a spectrum that ASPCAP has normalised in its own way; give the "
        "apStar file of the same star",
    ),
    (
        r"all(Star|Visit)\w*-.*",
        "is a summary table of the survey and holds no spectra; give it with enqueue --summary",
    ),
    (r"(ap|as)Visit-.*", APVISIT),
    (
        r"(ap|as)StarC-.*",
        "is an apStarC file: spectra of the commissioning, whose resolution is not that of the "
        "survey; give the star's apStar file, if it has one",
    ),
)
#: Said of what a file begins with.
_BY_CONTENT = (
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS to the file that is meant; fetch it with git lfs pull",
    ),
    (b"\x93NUMPY", "is an array of numpy; give it to worker.infer in Python, or the apStar file"),
)
#: So many of a file's first bytes decide.
LONGEST_START = max(len(start) for start, _ in _BY_CONTENT)


def wrong_kind(name: str, start: bytes) -> str | None:
    """What is said of a file of this name with these first bytes; None if it may be apStar."""
    for pattern, said in _BY_NAME:
        if re.fullmatch(pattern, name, re.DOTALL):
            return said
    return next((said for magic, said in _BY_CONTENT if start.startswith(magic)), None)

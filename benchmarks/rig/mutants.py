"""Damaged files, and whether the two readers of apStar files agree on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from worker.errors import SpectrumError
from worker.spectra.formats import apstar_readers as readers
from worker.spectra.formats.apstar import read_header, read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.spectra.formats.plain_fits import Unusual

_CARD, _BLOCK = 80, 2880
#: What stands where a card's value does.
_VALUES = (
    *("1 2", "'no end", "'a''b'", "(1.0, 2.0)", "1.5D5", ".5", "5.", "T 1", "nan", "=5", "007"),
    *("'AXIS.1: 2.0'", "1E999", "-1", "0", "3", "10000000000000000000575", "'x' y", "\t", "0x1F"),
    *("+-1", "T", "F", "'T'", "''", "'&'", "2.0", "'nonsense'", "/ nothing", "1 / '", "", "'\xff'"),
)
#: Keywords that mean something to a reader of FITS, beside those that a header has.
_KEYWORDS = (
    *("CHECKSUM", "DATASUM", "EXTNAME", "EXTVER", "EXTLEVEL", "INHERIT", "BSCALE", "BZERO"),
    *("BLANK", "THEAP", "ZIMAGE", "GROUPS", "CONTINUE", "HIERARCH", "COMPRESS", "LONGSTRN"),
    *("TFIELDS", "TFORM1", "TDIM1", "NAXIS3", "PCOUNT", "GCOUNT", "END", "XTENSION", "SIMPLE"),
)

Mutation = Callable[[bytearray, np.random.Generator], None]


def sound_files(folder: Path) -> list[bytes]:
    """A small file of each layout."""
    survey = Survey(3, visits=2, seed=5, layout="mixed")
    write_survey(survey, folder, Truth.of(folder, survey.settings()), 1, lambda _: None)
    return [path.read_bytes() for path in sorted(folder.rglob("*.fits"))]


def mutants(sound: list[bytes], number: int, seed: int = 0) -> Iterator[bytes]:
    """So many damaged files, one to three things wrong with each; the same seed, the same files."""
    rng = np.random.default_rng(seed)
    for n in range(number):
        content = bytearray(sound[n % len(sound)])
        for _ in range(int(rng.integers(1, 4))):
            _MUTATIONS[rng.integers(len(_MUTATIONS))](content, rng)
        yield bytes(content)


def is_plain(path: Path) -> bool:
    """Whether the lean reader takes a file."""
    with path.open("rb") as stream:
        try:
            readers.PlainApStar(stream, path.stat().st_size)
        except Unusual:
            return False
    return True


def disagreement(path: Path) -> str | None:
    """In what the two readers differ on a file, or None."""
    actual = _everything(path)
    with mock.patch.object(readers, "PlainApStar", side_effect=Unusual):
        expected = _everything(path)
    pairs = zip(actual, expected, strict=False)
    differing = [f"{one}; astropy: {other}" for one, other in pairs if one != other]
    if len(actual) != len(expected):
        differing.append(f"{len(actual)} things; astropy: {len(expected)}")
    return differing[0] if differing else None


def _everything(path: Path) -> list[Any]:
    """All that is read from a file, or the reasons why it is not; comparable."""
    header = _attempted(lambda: read_header(path))
    visits = () if isinstance(header, str) else header.visits
    found = [header]
    for mask in ("and", "or"):
        members = ["coadd", *visits, "apVisit-none.fits"]
        rows = _attempted(lambda m=members, k=mask: read_spectra(path, m, coadd_mask=k))
        found += [rows] if isinstance(rows, str) else map(_comparable, rows)
    return found


def _attempted(attempt: Callable[[], Any]) -> Any:
    try:
        return attempt()
    except SpectrumError as error:
        return str(error)


def _comparable(spectrum: SpectrumArrays | SpectrumError) -> Any:
    if isinstance(spectrum, SpectrumError):
        return str(spectrum)
    planes = (spectrum.flux, spectrum.error, spectrum.mask)
    return [(plane.dtype, plane.tobytes()) for plane in planes]


def _a_card(content: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    """Where a card of some header begins, and where the header's blocks end."""
    starts = [0]
    while (start := content.find(b"XTENSION=", starts[-1] + 1)) > 0:
        starts.append(start)
    start = int(rng.choice(starts))
    end = max(content.find(b"END" + b" " * 77, start), start)
    blocks = (end - start) // _BLOCK + 1
    return start + _CARD * int(rng.integers((end - start) // _CARD + 1)), start + blocks * _BLOCK


def _card(keyword: bytes, rng: np.random.Generator) -> bytes:
    text = keyword.ljust(8) + b"= " + str(rng.choice(_VALUES)).rjust(int(rng.integers(21))).encode()
    return text.ljust(_CARD)[:_CARD]


def _other_value(content: bytearray, rng: np.random.Generator) -> None:
    at, _ = _a_card(content, rng)
    content[at : at + _CARD] = _card(bytes(content[at : at + 8]), rng)


def _one_card_more(content: bytearray, rng: np.random.Generator) -> None:
    """Where the header's last block has room, nothing moves but its own cards."""
    at, end = _a_card(content, rng)
    content[at:end] = _card(str(rng.choice(_KEYWORDS)).encode(), rng) + content[at : end - _CARD]


def _card_away(content: bytearray, rng: np.random.Generator) -> None:
    at, end = _a_card(content, rng)
    content[at:end] = content[at + _CARD : end] + b" " * _CARD


def _card_twice(content: bytearray, rng: np.random.Generator) -> None:
    at, end = _a_card(content, rng)
    content[at:end] = content[at : at + _CARD] + content[at : end - _CARD]


def _byte_in_card(content: bytearray, rng: np.random.Generator) -> None:
    at, _ = _a_card(content, rng)
    bytes_ = b"0123456789-+.'=TFE /()&\x00\xff"
    content[at + int(rng.integers(_CARD))] = bytes_[rng.integers(len(bytes_))]


def _byte_anywhere(content: bytearray, rng: np.random.Generator) -> None:
    content[int(rng.integers(len(content)))] = int(rng.integers(256))


def _another_end(content: bytearray, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        del content[int(rng.integers(1, len(content))) :]
    else:
        content += bytes([rng.choice([0, 32, 255])]) * int(rng.choice([1, _BLOCK, 2 * _BLOCK]))


#: Cards more often than what both readers see at once.
_MUTATIONS: tuple[Mutation, ...] = (
    *(_other_value, _other_value, _other_value, _one_card_more, _one_card_more, _card_away),
    *(_card_twice, _byte_in_card, _byte_in_card, _byte_anywhere, _another_end),
)

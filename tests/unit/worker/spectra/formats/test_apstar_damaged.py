from __future__ import annotations

import gzip
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import TypeVar

import psutil
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import shared
from tests.inputs.apstar_files import Era, Planes, write_apstar
from worker.errors import SpectrumError
from worker.spectra.formats.apstar import read_header, read_spectra

Damage = Callable[[bytes], bytes]
T = TypeVar("T")

CARD = 80


@contextmanager
def watchdog(seconds: float = 5) -> Iterator[None]:
    """Turns an endless loop into a failure; it fires again, as clean-up code may loop too."""

    def bark(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail("reading this file does not come to an end")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_refused(path: Path) -> str:
    """Both readers refuse the file with the same sentence, which names it."""
    reasons = []
    for attempt in (lambda: read_header(path), lambda: read_spectra(path, ["coadd"])):
        with watchdog(), pytest.raises(SpectrumError) as caught:
            attempt()
        assert str(path) not in [file.path for file in psutil.Process().open_files()]
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    assert path.name in reasons[0]
    return reasons[0]


def attempted(path: Path, attempt: Callable[[], T]) -> T | None:
    """What an attempt gives, or None where it refuses the file by name; nothing else passes."""
    try:
        with watchdog():
            return attempt()
    except SpectrumError as error:
        reason = str(error)
    assert path.name in reason
    return None


def header_starts(content: bytes) -> list[int]:
    starts = [0]
    while (start := content.find(b"XTENSION=", starts[-1] + 1)) > 0:
        starts.append(start)
    return starts


def replaced(old: bytes, new: bytes, hdu: int = 0) -> Damage:
    """Replaces a card of this HDU, or of the next one that has it, by one of the same length."""
    assert len(old) == len(new)

    def damage(content: bytes) -> bytes:
        start = content.index(old, header_starts(content)[hdu])
        return content[:start] + new + content[start + len(new) :]

    return damage


def cut(hdu: int, offset: int = 0) -> Damage:
    """Ends the file so many bytes behind the start of an HDU."""
    return lambda content: content[: header_starts(content)[hdu] + offset]


def garbage_header(content: bytes) -> bytes:
    start = header_starts(content)[2]
    return content[:start] + b"\xff" * 2880 + content[start + 2880 :]


def packed(damage: Damage) -> Damage:
    return lambda content: gzip.compress(damage(content), 1, mtime=0)


def flipped_in_gz(content: bytes) -> bytes:
    content = gzip.compress(content, 1, mtime=0)
    return content[:50_000] + bytes([content[50_000] ^ 0xFF]) + content[50_001:]


def many_hdus(content: bytes) -> bytes:
    """The HDUs of a whole file, and 5,000 without data."""
    cards = ("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 0", "PCOUNT  = 0", "GCOUNT  = 1")
    header = "".join(card.ljust(CARD) for card in (*cards, "END")).ljust(2880).encode()
    return content + header * 5000


def long_header(content: bytes) -> bytes:
    """So many comments that astropy would take gigabytes."""
    start = content.index(b"END" + b" " * 77)
    return content[:start] + b"COMMENT ".ljust(CARD) * 36 * 40_000 + content[start:]


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", "is empty"),
    "text": (lambda _: b"no spectrum\n" * 999, "is not a FITS file"),
    "picture": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(9999), "is not a FITS file"),
    "FITS in its first bytes alone": (lambda content: content[:30], "damaged or incomplete"),
    "garbage for a header": (garbage_header, "incomplete"),
    "cut at an HDU": (cut(4), "has 4 of at least 10 HDUs"),
    "cut in a header": (cut(2, 800), "incomplete"),
    "cut in the data": (cut(2, -5760), "incomplete"),
    "cut by a byte": (lambda content: content[:-1], "incomplete"),
    "cut by a block": (lambda content: content[:-2880], "incomplete"),
    "start of one more HDU": (lambda content: content + b"XTENSION= 'IMAGE   '", "incomplete"),
    "zeros from the flux on": (lambda all_: all_[:40_000] + bytes(len(all_) - 40_000), "HDUs"),
    "many HDUs": (many_hdus, "has more than 100 HDUs"),
    "many HDUs in a gz": (packed(many_hdus), "has more than 100 HDUs"),
    "long header": (packed(long_header), "its headers are longer than 4000 blocks"),
    "zeros behind": (lambda content: content + bytes(64 << 20), "damaged or incomplete"),
    "zeros behind in a gz": (
        packed(lambda content: content + bytes(64 << 20)),
        "damaged or incomplete",
    ),
    "many axes": (
        replaced(b"NAXIS   =                    2", b"NAXIS   =           9999999999", 1),
        "HDU sizes make no sense",
    ),
    "cut gz": (lambda content: packed(bytes)(content)[:-5000], "cannot be read"),
    "cut gz checksum": (lambda content: packed(bytes)(content)[:-3], "cannot be read"),
    "corrupted gz": (flipped_in_gz, "cannot be read"),
    "gz of a text": (packed(lambda _: b"no spectrum"), "is not a FITS file"),
    "gz of nothing": (packed(lambda _: b""), "bad.fits"),
    "gz of a cut file": (packed(cut(9, 2880)), "incomplete"),
    "NAXIS without its axes": (
        replaced(b"NAXIS   =                    0", b"NAXIS   =                    9"),
        "damaged or incomplete",
    ),
    "axis as large as a disk": (
        replaced(b"NAXIS1  =                 8575", b"NAXIS1  =         988888888575"),
        "incomplete",
    ),
    **{
        f"negative {key} in HDU {hdu}": (
            replaced(
                f"{key:8}=                ".encode(), f"{key:8}=               -".encode(), hdu
            ),
            "bad.fits",
        )
        for key in ("NAXIS1", "NAXIS2", "GCOUNT")
        for hdu in (1, 3, 9)
        if (key, hdu) != ("GCOUNT", 1)
    },
    "unparsable number of visits": (
        replaced(b"NVISITS =                    2", b"NVISITS =                    \xff"),
        "damaged or incomplete",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_file_is_refused_with_a_reason_that_names_it(
    tmp_path: Path, damage: Damage, reason: str
) -> None:
    good = write_apstar(tmp_path / "good.fits").path
    bad = tmp_path / "bad.fits"
    bad.write_bytes(damage(good.read_bytes()))
    assert reason in assert_refused(bad)


def _other_size(planes: Planes) -> None:
    planes.flux, planes.error, planes.mask = (
        plane[:, :8000] for plane in (planes.flux, planes.error, planes.mask)
    )


def _mask_without_a_row(planes: Planes) -> None:
    planes.mask = planes.mask[:-1]


def _cubes(planes: Planes) -> None:
    planes.flux, planes.error, planes.mask = (
        plane[None] for plane in (planes.flux, planes.error, planes.mask)
    )


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_other_size, "HDU 1 has shape (4, 8000), not rows of 8575 pixels"),
        (_mask_without_a_row, "HDU 3 has shape (3, 8575)"),
        (_cubes, "HDU 1 has shape (1, 4, 8575)"),
    ],
)
def test_images_of_another_shape_are_refused(
    tmp_path: Path, edit: Callable[[Planes], None], reason: str
) -> None:
    assert reason in assert_refused(write_apstar(tmp_path / "bad.fits", edit=edit).path)


@pytest.mark.parametrize("n_hdus", [1, 2, 4, 9])
def test_file_of_fewer_than_ten_hdus_is_refused(tmp_path: Path, n_hdus: int) -> None:
    path = write_apstar(tmp_path / "bad.fits", n_hdus=n_hdus).path
    assert f"has {n_hdus} of at least 10 HDUs" in assert_refused(path)


def test_real_apvisit_is_refused_by_its_name() -> None:
    assert "is an apVisit file" in assert_refused(shared("apVisit-r13-5095-55844-128.fits"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "loop.fits").symlink_to(tmp_path / "loop.fits")
    (tmp_path / "dangling.fits").symlink_to(tmp_path / "nothing.fits")
    assert "is a directory" in assert_refused(tmp_path / "folder.fits")
    for name in ("absent.fits", "loop.fits", "dangling.fits"):
        assert "does not exist" in assert_refused(tmp_path / name)


def test_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_apstar(tmp_path / "secret.fits").path

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in assert_refused(path)


@pytest.mark.parametrize("count", [5_000_000, -1])
def test_absurd_number_of_visits_costs_neither_time_nor_the_process(
    tmp_path: Path, count: int
) -> None:
    path = write_apstar(tmp_path / "star.fits", cards={"NVISITS": count}).path
    header = attempted(path, lambda: read_header(path))
    # SFILEn has room for three digits.
    assert header is None or len(header.visits) <= 999


# Random damage

#: Damage to a byte of a header card, and to any byte of the file.
in_card = st.tuples(st.integers(0, 9), st.integers(0, 35), st.integers(0, CARD - 1))
anywhere = st.floats(0, 1, exclude_max=True)
new_byte = st.sampled_from(b"0123456789-+.'=TFE /\x00") | st.integers(0, 255)
changes = st.lists(st.tuples(in_card | anywhere, new_byte), max_size=6)
ends = st.none() | st.floats(0, 1)


@lru_cache
def sound(era: Era, folder: Path) -> tuple[bytes, tuple[int, ...], tuple[str, ...]]:
    written = write_apstar(folder / f"{era}.fits", era=era, n_visits=1)
    content = written.path.read_bytes()
    return content, tuple(header_starts(content)), written.visits


def changed(
    content: bytes,
    starts: tuple[int, ...],
    at: list[tuple[tuple[int, int, int] | float, int]],
    end: float | None,
) -> bytes:
    damaged = bytearray(content)
    for place, byte in at:
        if isinstance(place, float):
            position = int(place * len(content))
        else:
            hdu, card, column = place
            position = starts[hdu] + card * CARD + column
        damaged[position] = byte
    return bytes(damaged if end is None else damaged[: int(end * len(content))])


@pytest.mark.parametrize("form", ["plain", "gz of the damaged", "damaged gz"])
def test_random_damage_ends_in_spectra_or_in_a_reason(
    tmp_path_factory: pytest.TempPathFactory, form: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "star.fits"

    # Without shrinking: a file that is read for ever would be read many times over.
    @settings(
        max_examples=60,
        derandomize=True,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
    )
    @given(era=st.sampled_from(["dr13", "sdss5"]), at=changes, end=ends)
    def check(
        era: Era, at: list[tuple[tuple[int, int, int] | float, int]], end: float | None
    ) -> None:
        content, starts, visits = sound(era, folder)
        if form == "damaged gz":
            content = gzip.compress(content, 1, mtime=0)
            starts = (0,) * len(starts)
        content = changed(content, starts, at, end)
        if form == "gz of the damaged":
            content = gzip.compress(content, 1, mtime=0)
        path.write_bytes(content)
        attempted(path, lambda: read_header(path))
        attempted(path, lambda: read_spectra(path, ["coadd", *visits]))

    check()


def beyond_64_bits(key: str, hdu: int) -> Damage:
    def damage(content: bytes) -> bytes:
        start = content.index(f"{key:8}=".encode(), header_starts(content)[hdu])
        card = f"{key:8}= {10**19 + 575:>20}".encode().ljust(CARD)
        return content[:start] + card + content[start + CARD :]

    return damage


@pytest.mark.parametrize("key", ["NAXIS1", "NAXIS2", "BITPIX", "PCOUNT", "GCOUNT"])
@pytest.mark.parametrize("hdu", [1, 9])
def test_number_beyond_64_bits_is_damage(tmp_path: Path, key: str, hdu: int) -> None:
    good = write_apstar(tmp_path / "good.fits").path.read_bytes()
    (tmp_path / "bad.fits").write_bytes(beyond_64_bits(key, hdu)(good))
    assert "bad.fits" in assert_refused(tmp_path / "bad.fits")


def test_extension_of_a_size_beyond_64_bits_is_refused() -> None:
    assert "damaged or incomplete" in assert_refused(shared("field/fits_naxis_overflow.fits"))


@pytest.mark.parametrize(
    ("key", "attribute"),
    [("SNR", "snr"), ("RA", "ra"), ("OBJID", "obj"), ("STARFLAG", "spectrum_flags")],
)
def test_card_that_cannot_be_read_is_lost_alone_and_named(
    tmp_path: Path, key: str, attribute: str
) -> None:
    path = write_apstar(tmp_path / "star.fits").path
    sound, content = read_header(path), path.read_bytes()
    start = content.index(f"{key:8}=".encode())
    path.write_bytes(
        content[:start] + f"{key:8}= 1 2".encode().ljust(CARD) + content[start + CARD :]
    )
    assert read_header(path) == replace(sound, lost=(key,), **{attribute: None})
    assert len(read_spectra(path, ["coadd", *sound.visits])) == 3

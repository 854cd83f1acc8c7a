"""Unpacking beside Python's own gzip, and what is refused that would take long."""

from __future__ import annotations

import gzip
import io
import zlib

import numpy as np
import pytest

from tests.unit.worker.spectra.formats.test_apstar_damaged import watchdog
from worker.spectra.formats.gzip_stream import GzipStream

NOISE = np.random.default_rng(1).bytes(100_000)
CONTENT = NOISE + bytes(3_000_000) + NOISE
PACKED = gzip.compress(CONTENT, mtime=0)
MIB = 1 << 20


def with_name(name: bytes) -> bytes:
    return PACKED[:3] + b"\x08" + PACKED[4:10] + name + b"\0" + PACKED[10:]


def unpacked(packed: bytes) -> bytes:
    with watchdog(), GzipStream(io.BytesIO(packed)) as stream:
        return stream.read()


FORMS = {
    "one member": PACKED,
    "nothing": gzip.compress(b""),
    "incompressible": gzip.compress(NOISE, 0),
    "many members": b"".join(gzip.compress(NOISE[n : n + 99]) for n in range(0, 99_000, 99)),
    "empty members": gzip.compress(b"") * 99 + PACKED + gzip.compress(b"") * 99,
    "zeros behind": PACKED + bytes(5_000_001),
    "zeros between": PACKED + bytes(70_000) + PACKED,
    "a name": with_name(b"apStar-r6-2M00452143+1634446.fits"),
}


@pytest.mark.parametrize("packed", FORMS.values(), ids=FORMS)
def test_content_is_that_of_gzip(packed: bytes) -> None:
    assert unpacked(packed) == gzip.decompress(packed)


def test_places_are_those_of_the_content() -> None:
    rng = np.random.default_rng(2)
    with GzipStream(io.BytesIO(PACKED)) as stream:
        for place in rng.integers(0, len(CONTENT), 20).tolist():
            assert stream.seek(place) == stream.tell() == place
            piece = stream.read(7)
            assert piece
            assert CONTENT[place:].startswith(piece)
        assert stream.seek(len(CONTENT) + 5) == len(CONTENT)
        assert [stream.read(1), stream.read(1)] == [b"", b""]


def test_the_file_is_closed_with_the_stream() -> None:
    file = io.BytesIO(PACKED)
    GzipStream(file).close()
    assert file.closed


@pytest.mark.parametrize(
    "packed",
    [
        PACKED[:-1],
        PACKED[:5000],
        PACKED[:5],
        PACKED[:-5] + b"\xff" + PACKED[-4:],
        PACKED[:5000] + b"\xff\xff\xff" + PACKED[5003:],
        PACKED + b"something else",
    ],
)
def test_damage_is_told(packed: bytes) -> None:
    with pytest.raises((EOFError, zlib.error)):
        unpacked(packed)


@pytest.mark.parametrize(
    "packed",
    [
        with_name(b"n" * 20 * MIB),
        PACKED + gzip.compress(b"") * 60_000,
        PACKED[:10] + b"\0\0\0\xff\xff" * 300_000 + PACKED[10:],
    ],
    ids=["name", "members", "blocks"],
)
def test_much_that_gives_nothing_is_refused(packed: bytes) -> None:
    with pytest.raises(OSError, match="hold nothing"):
        unpacked(packed)

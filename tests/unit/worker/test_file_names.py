from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.file_names import name_as_text, name_on_disk


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a/apStar-r6-2M1+1.fits", "a/apStar-r6-2M1+1.fits"),
        ("é/星.fits".encode(), "é/星.fits"),
        (rb"back\slash\n.fits", r"back\slash\n.fits"),
        (b"2M\xff\xfe.fits", r"2M\udcff\udcfe.fits"),
        (rb"2M\udcff.fits", r"2M\x5cudcff.fits"),
        (rb"2M\x5c.fits", r"2M\x5cx5c.fits"),
        (b"2M\\\xff.fits", r"2M\\udcff.fits"),
    ],
)
def test_each_name_has_its_text(name: bytes, text: str) -> None:
    assert name_as_text(os.fsdecode(name)) == text
    assert os.fsencode(name_on_disk(text)) == name


@given(st.lists(st.sampled_from([b"\\", b"u", b"dc", b"ff", b"x5c", b"udc80", b"\x80", b"\xc3"])))
def test_every_name_comes_back_from_its_text(parts: list[bytes]) -> None:
    name = os.fsdecode(b"".join(parts))
    text = name_as_text(name)
    assert text.encode().decode() == text
    assert name_on_disk(text) == name

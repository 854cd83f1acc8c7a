"""Tables that are packed, and files that would keep their reader."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import producer.sources.fits_rows
from producer.sources.fits_rows import FitsTable
from tests.unit.worker.spectra.formats.test_apstar_damaged import watchdog
from worker.errors import UsageError

NUMBERS = np.random.default_rng(3).integers(0, 2**31, (5000, 40))
EMPTY_HDU = b"".join(
    card.ljust(80)
    for card in (
        *(b"XTENSION= 'IMAGE   '", b"BITPIX  = 8", b"NAXIS   = 0", b"PCOUNT  = 0", b"GCOUNT  = 1"),
        *(b"END", *[b""] * 30),
    )
)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A table of more than a block that is unpacked, and an HDU behind it."""
    columns = [fits.Column(f"N{n}", "K", array=NUMBERS[:, n]) for n in range(40)]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns), fits.ImageHDU()]
    fits.HDUList(hdus).writeto(tmp_path / "table.fits")
    return tmp_path / "table.fits"


def packed(plain: Path, content: bytes) -> Path:
    path = plain.parent / "packed.fits.gz"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("behind", [b"", bytes(5_000_000)], ids=["whole", "padded"])
def test_packed_table_is_read_as_the_plain_one(
    plain: Path, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer.sources.fits_rows, "_BLOCK_BYTES", 100_000)
    for path in (plain, packed(plain, gzip.compress(plain.read_bytes(), 1) + behind)):
        table = FitsTable(path)
        assert len(table) == len(NUMBERS)
        blocks = list(table.blocks(["n0", "n39"]))
        assert len(blocks) > 9
        found = np.concatenate(blocks)
        np.testing.assert_array_equal(found["n0"], NUMBERS[:, 0])
        np.testing.assert_array_equal(found["n39"], NUMBERS[:, 39])


def test_only_what_is_asked_for_is_unpacked(plain: Path) -> None:
    content = gzip.compress(plain.read_bytes(), 1)
    table = FitsTable(packed(plain, content[:-40_000]))  # cut, of which opening knows nothing
    with pytest.raises(UsageError, match="cannot be read"):
        list(table.blocks(["n0"]))


def test_files_that_would_keep_their_reader_are_refused(plain: Path) -> None:
    content = plain.read_bytes()
    primary, cards = content[:2880], b"COMMENT".ljust(80) * 36 * 5000
    table = gzip.compress(content)
    name = table[:3] + b"\x08" + table[4:10] + b"n" * (20 << 20) + b"\0" + table[10:]
    for odd, reason in {
        gzip.compress(primary + EMPTY_HDU * 20_000): "holds no table",
        gzip.compress(primary[:400] + cards + content): "longer than",
        name: "hold nothing",
    }.items():
        with watchdog(), pytest.raises(UsageError, match=reason):
            FitsTable(packed(plain, odd))


def test_rows_that_fill_memory_are_refused(tmp_path: Path) -> None:
    columns = [fits.Column("wide", f"{9 << 20}A", array=np.array([b"x"]))]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(
        tmp_path / "wide.fits"
    )
    with pytest.raises(UsageError, match="rows are longer"):
        FitsTable(tmp_path / "wide.fits")

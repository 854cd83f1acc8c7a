from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

import producer.sources.fits_rows
from producer.sources.fits_rows import FitsTable
from tests.inputs.summary_files import DR17_STAR, write_table
from worker.errors import UsageError


def stars(count: int) -> list[dict[str, Any]]:
    return [{**DR17_STAR, "APOGEE_ID": f"star{n}", "SNR": n / 2} for n in range(count)]


def column(table: FitsTable, name: str) -> list[Any]:
    return [value for rows in table.blocks([name]) for value in table.values(rows, name)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """About seven rows at a time."""
    monkeypatch.setattr(producer.sources.fits_rows, "_BLOCK_BYTES", 5000)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("packed", [False, True])
def test_rows_come_in_order_a_block_at_a_time(tmp_path: Path, packed: bool) -> None:
    path = write_table(tmp_path / "allStar.fits", stars(100))
    if packed:
        path.with_suffix(".fits.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".fits.gz")
    table = FitsTable(path)
    assert len(table) == 100
    sizes = [len(rows) for rows in table.blocks(["apogee_id"])]
    assert sum(sizes) == 100
    assert max(sizes) < 10
    assert column(table, "apogee_id") == [f"star{n}" for n in range(100)]
    assert column(table, "snr") == [n / 2 for n in range(100)]


def test_blocks_hold_the_wanted_columns_alone(tmp_path: Path) -> None:
    table = FitsTable(write_table(tmp_path / "allStar.fits", stars(3)))
    rows: NDArray[Any] = next(table.blocks(["snr", "file"]))
    assert rows.dtype.names == ("snr", "file")


def test_values_agree_with_those_of_astropy(tmp_path: Path) -> None:
    written = Table(
        {
            "FILE": MaskedColumn(["a.fits", "x"], mask=[False, True]),
            "SNR": np.array([1.5, np.nan], dtype=np.float32),
            "NVISITS": MaskedColumn([3, 0], mask=[False, True]),
            "LARGE": np.array([1, 2**32 - 1], dtype=np.uint32),
            "PARAM": np.zeros((2, 5)),
        }
    )
    written.write(tmp_path / "table.fits")
    table = FitsTable(tmp_path / "table.fits")
    assert table.kinds == {"file": "S", "snr": "f", "nvisits": "i", "large": "i"}
    assert column(table, "file") == ["a.fits", None]
    assert column(table, "snr") == [1.5, None]
    assert column(table, "nvisits") == [3, None]
    assert column(table, "large") == [1, 2**32 - 1]


def test_padding_of_texts_goes_and_foreign_bytes_stay_recognisable(tmp_path: Path) -> None:
    rows = [{"NAME": "8100   "}, {"NAME": "  x"}, {"NAME": ""}, {"NAME": "zz"}]
    path = write_table(tmp_path / "table.fits", rows)
    path.write_bytes(path.read_bytes().replace(b"zz", b"\xe9\0"))
    assert column(FitsTable(path), "name") == ["8100", "x", None, "\\xe9"]


def test_table_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_table(tmp_path / "allStar.fits", stars(100))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(UsageError, match=r"allStar\.fits is cut off: it announces 100 rows"):
        column(FitsTable(path), "snr")


def test_packed_table_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_table(tmp_path / "allStar.fits", stars(100))
    packed = tmp_path / "allStar.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 0)[:-20_000])
    with pytest.raises(UsageError, match=r"allStar\.fits\.gz "):
        column(FitsTable(packed), "snr")


@pytest.mark.parametrize("content", [b"", b"text", b"SIMPLE  =                    T", b"\x1f\x8bx"])
def test_what_is_no_fits_file_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.fits").write_bytes(content)
    with pytest.raises(
        UsageError, match=r"x\.fits (cannot be read as a FITS table|holds no table)"
    ):
        FitsTable(tmp_path / "x.fits")


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.fits cannot be read as a FITS table: No such file"):
        FitsTable(tmp_path / "x.fits")


def test_file_without_a_table_is_told(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros(3)).writeto(tmp_path / "x.fits")
    with pytest.raises(UsageError, match=r"x\.fits holds no table"):
        FitsTable(tmp_path / "x.fits")

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from astropy.table import MaskedColumn, Table

from worker.errors import UsageError
from worker.labels import LABEL_NAMES, LABELS
from worker.training.label_table import read_label_table

MG, TI_2, C_1 = (LABEL_NAMES.index(name) for name in ("mg_h", "ti_2_h", "c_1_h"))


def columns(n: int = 4, **more: Any) -> dict[str, Any]:
    values = {label.name: np.arange(n) / 10 + position for position, label in enumerate(LABELS)}
    return {"obj": [f"2M{i:08d}+0000000" for i in range(n)], **values, **more}


def write(path: Path, content: dict[str, Any]) -> Path:
    if path.suffix == ".parquet":
        plain = {
            name: values.tolist() if hasattr(values, "tolist") else values  # masked becomes null
            for name, values in content.items()
        }
        pyarrow.parquet.write_table(pa.table(plain), path)
    else:
        formats = {".fits": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".vot": "votable"}
        Table(content).write(path, format=formats[path.suffix])
    return path


@pytest.mark.parametrize("ending", [".fits", ".ecsv", ".csv", ".vot", ".parquet"])
def test_every_format_gives_the_same_labels_errors_and_missing_entries(
    tmp_path: Path, ending: str
) -> None:
    content = columns()
    content["mg_h"] = MaskedColumn([0.1, 0.2, 0.3, 0.4], mask=[False, True, False, False])
    content["TEFF"] = np.array([4500.0, np.nan, -9999.0, 5000.0])
    del content["teff"]
    content["TI2_H"] = np.array([-9999.99, 0.5, -9000.0, 0.6])
    content["ti2_h_ERR"] = np.array([0.1, 0.2, -9999.0, np.nan])
    del content["ti_2_h"]
    content["C1_H"] = content.pop("c_1_h")
    content["e_c_1_h"] = np.full(4, 0.03)
    content["E_TEFF"] = np.array([50.0, 60.0, 70.0, 0.0])
    table = read_label_table(write(tmp_path / f"labels{ending}", content))
    nan = np.nan
    np.testing.assert_allclose(table.labels[:, 0], [4500.0, nan, nan, 5000.0])
    np.testing.assert_allclose(table.labels[:, MG], [0.1, nan, 0.3, 0.4])
    np.testing.assert_allclose(table.labels[:, TI_2], [nan, 0.5, nan, 0.6])
    np.testing.assert_allclose(table.labels[:, C_1], np.arange(4) / 10 + C_1)
    np.testing.assert_allclose(table.e_labels[:, 0], [50.0, 60.0, 70.0, 0.0])
    np.testing.assert_allclose(table.e_labels[:, TI_2], [0.1, 0.2, 0.0, 0.0])
    np.testing.assert_allclose(table.e_labels[:, C_1], 0.03)
    assert not table.e_labels[:, MG].any()
    assert table.names == tuple(columns()["obj"])


@pytest.mark.parametrize("key", ["obj", "APOGEE_ID", "ObjID"])
def test_rows_match_by_star_and_of_rows_that_agree_the_first_counts(
    tmp_path: Path, key: str
) -> None:
    content = columns(3)
    del content["obj"]
    content[key] = ["2MB", "2MA", "2MB"]
    table = read_label_table(write(tmp_path / "labels.fits", content))
    paths = [Path("/x")] * 4
    rows = table.rows_of(paths, ["2MA", "2MB", "2MC", "2MB"], Path("/"))
    assert rows.tolist() == [1, 0, -1, 0]


def test_paths_are_relative_to_the_table_or_the_data_root_or_absolute(tmp_path: Path) -> None:
    folder, root = tmp_path / "survey", tmp_path
    folder.mkdir()
    absolute = tmp_path / "elsewhere" / "c.fits"
    content = columns(3, path=["spectra/a.fits", "other/b.fits", str(absolute)])
    table = read_label_table(write(folder / "labels.ecsv", content))
    files = [absolute, folder / "spectra/a.fits", root / "other/b.fits", root / "lost/a.fits"]
    # The stars' names would match too; the paths go before them.
    rows = table.rows_of(files, [content["obj"][0]] * 4, root)
    assert rows.tolist() == [2, 0, 1, -1]


@pytest.mark.parametrize("values", [None, [np.nan, -9999.0, -9999.99, -np.inf]])
def test_labels_that_no_row_knows_are_missing_and_named(tmp_path: Path, values: Any) -> None:
    content = columns()
    del content["p_h"], content["s_h"]
    if values is not None:
        content |= {"p_h": np.array(values), "s_h": np.array(values)}
    table = read_label_table(write(tmp_path / "labels.fits", content))
    lacking = [name in ("p_h", "s_h") for name in LABEL_NAMES]
    assert np.isnan(table.labels).all(axis=0).tolist() == lacking
    assert table.notes == ("No values for p_h, s_h.",)


def test_a_table_without_any_label_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", {"obj": ["2M1"], "snr": np.array([9.0])})
    with pytest.raises(UsageError, match="has no valid value of any label"):
        read_label_table(path)


def test_a_table_that_does_not_say_whose_labels_it_has_is_refused(tmp_path: Path) -> None:
    content = columns()
    del content["obj"]
    path = write(tmp_path / "labels.csv", content)
    with pytest.raises(UsageError, match="give it a column path, or obj, apogee_id, objid"):
        read_label_table(path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("labels.txt", b"", r"no \.fits, \.ecsv, \.csv, \.vot or \.parquet file"),
        ("labels.fits", b"no table", "labels.fits cannot be read"),
        ("labels.parquet", b"PAR1", "labels.parquet cannot be read"),
        ("labels.ecsv", b"\xff\xfe", "labels.ecsv cannot be read"),
        ("labels.csv", None, "labels.csv does not exist"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, text: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=text) as refusal:
        read_label_table(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_column_of_words_where_numbers_are_wanted_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", columns(fe_h=["solar", "poor", "rich", "solar"]))
    with pytest.raises(UsageError, match=r"no column of numbers: .*solar"):
        read_label_table(path)


def test_other_columns_of_a_parquet_table_may_be_of_any_kind(tmp_path: Path) -> None:
    plain = columns()
    content = {name: pa.array(values) for name, values in plain.items()} | {
        "mg_h": pa.array([Decimal("0.25"), None, Decimal("-0.5"), Decimal(0)]),
        "e_mg_h": pa.nulls(4),
        "observed": pa.array([datetime(2026, 11, 23, tzinfo=UTC)] * 4),
        "visits": pa.array([[1, 2], [], None, [3]]),
        "sdss_id": pa.array([2**60 + 1, None, 3, 4], pa.int64()),
    }
    pyarrow.parquet.write_table(pa.table(content), tmp_path / "labels.parquet")
    table = read_label_table(tmp_path / "labels.parquet")
    np.testing.assert_allclose(table.labels[:, MG], [0.25, np.nan, -0.5, 0])
    np.testing.assert_allclose(table.labels[:, TI_2], plain["ti_2_h"])
    assert not table.e_labels[:, MG].any()

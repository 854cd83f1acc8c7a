"""Label tables as the releases of the survey have them: names, shapes, types and fill values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from astropy.io import fits
from astropy.table import Table

from worker.errors import UsageError
from worker.labels import LABEL_NAMES
from worker.training.label_table import LabelTable, read_label_table

NAN = np.nan
STAR_BAD, TEFF_CUT, GRIDEDGE_WARN = 1 << 23, 1 << 6, 1 << 8
FIRST = ["C", "CI", "N", "O", "Na", "Mg", "Al", "Si", "P", "S", "K", "Ca", "Ti", "TiII"]
FIRST += ["V", "Cr", "Mn", "Fe", "Co", "Ni"]
DR14 = [*FIRST, "Cu", "Ge", "Ce", "Rb", "Y", "Nd"]
DR16 = [*FIRST, "Cu", "Ge", "Rb", "Ce", "Nd", "Yb"]
DR17 = [*DR16, "C13"]
STARS = ["2M00000002+7417074", "2M00000019-1924498", "2M00000032+5737103"]


def all_star(elements: list[str], fill: float, flag_type: str) -> dict[str, Any]:
    """Three stars: [X/H] of element k is 0.01 k, and [Fe/H] 0.17, 0.27, 0.37."""
    n = len(elements)
    x_h = np.array([0.01 * np.arange(n) + 0.1 * star for star in range(3)], dtype="f4")
    content: dict[str, Any] = {
        "APOGEE_ID": np.array([name.encode() for name in STARS], dtype="S18"),
        "J": np.array([10.1, 11.2, 99.999], dtype="f4"),
        "TEFF": np.array([4500.0, fill, 5100.0], dtype="f4"),
        "TEFF_ERR": np.array([80.0, fill, 90.0], dtype="f4"),
        "LOGG": np.array([2.5, fill, 4.4], dtype="f4"),
        "LOGG_ERR": np.array([0.05, fill, 0.06], dtype="f4"),
        "M_H": np.array([0.1, 0.2, 0.3], dtype="f4"),
        "ALPHA_M": np.array([0.0, 0.1, 0.0], dtype="f4"),
        "ASPCAPFLAG": np.zeros(3, dtype=flag_type),
        "EXTRATARG": np.zeros(3, dtype="i4"),
        "ELEMFLAG": np.zeros((3, n), dtype=flag_type),
        "X_H": x_h,
        "X_H_ERR": np.full((3, n), 0.02, dtype="f4"),
        "X_M": x_h - 0.1,
        "FE_H": x_h[:, 17],
        "FE_H_ERR": np.full(3, 0.03, dtype="f4"),
        "FE_H_FLAG": np.zeros(3, dtype=flag_type),
    }
    for place, element in enumerate(elements):
        if element != "Fe":
            name = f"{element.upper()}_FE"
            content[name] = x_h[:, place] - x_h[:, 17]
            content[f"{name}_ERR"] = np.full(3, 0.04, dtype="f4")
            content[f"{name}_FLAG"] = np.zeros(3, dtype=flag_type)
    return content


def without_arrays(content: dict[str, Any]) -> dict[str, Any]:
    """As allStarLite has it, or a table of columns of numbers alone."""
    return {name: values for name, values in content.items() if np.ndim(values) == 1}


def read(folder: Path, content: dict[str, Any], symbols: list[str] | None = None) -> LabelTable:
    path = folder / "allStar.fits"
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(Table(content)), fits.ImageHDU(np.zeros(1))]
    if symbols is not None:
        info = np.array([[symbol.encode() for symbol in symbols]], dtype="S5")
        hdus.append(
            fits.table_to_hdu(Table({"ELEM_SYMBOL": info, "ELEMTOH": [[0] * len(symbols)]}))
        )
    fits.HDUList(hdus).writeto(path)
    return read_label_table(path)


def label(table: LabelTable, name: str) -> list[float]:
    return np.round(table.labels[:, LABEL_NAMES.index(name)], 4).tolist()


def error(table: LabelTable, name: str) -> list[float]:
    return np.round(table.e_labels[:, LABEL_NAMES.index(name)], 4).tolist()


@pytest.mark.parametrize(
    ("elements", "fill", "flag_type"),
    [(DR14, -9999.0, "i4"), (DR16, -9999.99, "i4"), (DR17, NAN, "i8"), (DR17, NAN, "u8")],
)
@pytest.mark.parametrize("told", [True, False])
def test_the_arrays_of_dr14_to_dr17_give_each_label(
    tmp_path: Path, elements: list[str], fill: float, flag_type: str, told: bool
) -> None:
    content = all_star(elements, fill, flag_type)
    table = read(tmp_path, content, elements if told else None)
    assert table.names == tuple(STARS)
    np.testing.assert_equal(label(table, "teff"), [4500.0, NAN, 5100.0])
    np.testing.assert_equal(label(table, "logg"), [2.5, NAN, 4.4])
    assert error(table, "teff") == [80.0, 0.0, 90.0]
    expected = {
        **{"c_h": 0, "c_1_h": 1, "n_h": 2, "o_h": 3, "na_h": 4, "mg_h": 5, "al_h": 6, "si_h": 7},
        **{"p_h": 8, "s_h": 9, "k_h": 10, "ca_h": 11, "ti_h": 12, "ti_2_h": 13, "v_h": 14},
        **{"cr_h": 15, "mn_h": 16, "fe_h": 17, "co_h": 18, "ni_h": 19},
    }
    for name, place in expected.items():
        first = round(0.01 * place, 4)
        assert label(table, name) == [first, round(first + 0.1, 4), round(first + 0.2, 4)], name
        assert error(table, name) == [0.03 if name == "fe_h" else 0.02] * 3, name
    assert not any("turned" in note or "not used" in note for note in table.notes)


def test_a_file_that_tells_its_elements_is_believed_before_the_release(tmp_path: Path) -> None:
    content = all_star(DR16, NAN, "i8")
    swapped = ["CI", "C", *DR16[2:]]
    table = read(tmp_path, content, swapped)
    assert label(table, "c_1_h") == [0.0, 0.1, 0.2]
    assert label(table, "c_h") == [0.01, 0.11, 0.21]


def test_the_twenty_elements_that_dr17_releases_are_without_phosphorus(tmp_path: Path) -> None:
    content = {
        "APOGEE_ID": STARS[:1],
        "TEFF": np.array([4500.0]),
        "X_H": 0.01 * np.arange(20.0)[None],
    }
    table = read(tmp_path, content)
    assert label(table, "si_h") == [0.07]
    assert label(table, "s_h") == [0.08]
    assert label(table, "ni_h") == [0.18]
    assert table.notes == ("No values for logg, p_h.",)


def test_an_array_of_which_nothing_tells_the_elements_is_not_used(tmp_path: Path) -> None:
    content = {"APOGEE_ID": STARS[:1], "TEFF": np.array([4500.0]), "X_H": np.zeros((1, 5))}
    table = read(tmp_path, content)
    assert "X_H is not used: nothing tells its elements." in table.notes
    assert np.isfinite(table.labels).sum() == 1


def test_ratios_to_iron_are_turned_into_abundances_with_errors_added(tmp_path: Path) -> None:
    content = without_arrays(all_star(DR17, -9999.99, "i8"))
    content["MG_FE"] = np.array([0.2, -9999.99, -0.1], dtype="f4")
    content["P_FE"] = np.full(3, -9999.99, dtype="f4")
    content["FE_H"] = np.array([-0.5, 0.0, -9999.99], dtype="f4")
    content["MG_FE_ERR"] = np.array([0.04, -9999.99, 0.04], dtype="f4")
    table = read(tmp_path, content)
    np.testing.assert_equal(label(table, "fe_h"), [-0.5, 0.0, NAN])
    np.testing.assert_equal(label(table, "mg_h"), [-0.3, NAN, NAN])  # 0.2 - 0.5
    # [CI/Fe] is 0.01 - 0.17 and [TiII/Fe] 0.13 - 0.17, for each star.
    np.testing.assert_equal(label(table, "c_1_h"), [-0.66, -0.16, NAN])
    np.testing.assert_equal(label(table, "ti_2_h"), [-0.54, -0.04, NAN])
    assert error(table, "c_1_h") == [0.05] * 3  # 0.03 and 0.04 in quadrature
    assert error(table, "mg_h")[:2] == [0.05, 0.03]
    assert error(table, "fe_h") == [0.03] * 3
    assert table.notes == (
        "C_FE and 17 more were turned into [X/H] with [Fe/H].",
        "No values for p_h.",
        "Columns not understood as any of the 22 labels: M_H, ALPHA_M, CU_FE, GE_FE, RB_FE, "
        "CE_FE, ND_FE, YB_FE, C13_FE.",
    )


def test_an_abundance_goes_before_a_ratio_to_iron(tmp_path: Path) -> None:
    content = {
        "APOGEE_ID": STARS[:2],
        "FE_H": np.array([-0.5, 0.0]),
        "CI_H": np.array([0.11, NAN]),
        "CI_H_ERR": np.array([0.02, NAN]),
        "CI_FE": np.array([0.3, 0.3]),
        "TIII_H": np.array([-9999.99, 99.999]),
        "TIII_FE": np.array([0.3, 0.1]),
        "TEFF": np.array([99.999, 4500.0]),
    }
    table = read(tmp_path, content)
    np.testing.assert_equal(label(table, "c_1_h"), [0.11, NAN])
    assert error(table, "c_1_h") == [0.02, 0.0]
    np.testing.assert_equal(label(table, "ti_2_h"), [-0.2, 0.1])
    np.testing.assert_equal(label(table, "teff"), [NAN, 4500.0])
    assert table.notes[0] == "TIII_FE was turned into [X/H] with [Fe/H]."


def test_ratios_without_iron_are_of_no_use_and_that_is_said(tmp_path: Path) -> None:
    content = {"APOGEE_ID": STARS[:1], "TEFF": np.array([4500.0]), "C_FE": np.array([0.1])}
    table = read(tmp_path, content | {"MG_FE": np.array([0.2])})
    assert np.isfinite(table.labels).sum() == 1
    assert table.notes[0] == "C_FE and 1 more are not used: [X/Fe] without [Fe/H] gives no [X/H]."


@pytest.mark.parametrize("flag_type", ["i4", "i8", "u8"])
def test_bad_stars_have_no_labels(tmp_path: Path, flag_type: str) -> None:
    content = all_star(DR17, NAN, flag_type)
    content["ASPCAPFLAG"][:] = [STAR_BAD | 1, 1 << 7, 0]  # STAR_WARN is no hindrance
    table = read(tmp_path, content)
    assert np.isnan(table.labels).all(axis=1).tolist() == [True, False, False]
    assert table.notes[0] == "1 rows with STAR_BAD in ASPCAPFLAG are not used."
    content["ASPCAPFLAG"][:] = STAR_BAD
    path = tmp_path / "bad"
    path.mkdir()
    with pytest.raises(UsageError, match=r"no valid value of any label\. 3 rows with STAR_BAD"):
        read(path, content)


@pytest.mark.parametrize("arrays", [True, False])
def test_bad_bits_of_an_element_hide_that_label_alone_and_warnings_none(
    tmp_path: Path, arrays: bool
) -> None:
    content = all_star(DR17, NAN, "i8")
    if arrays:
        content["ELEMFLAG"][:, 5] = [TEFF_CUT, GRIDEDGE_WARN, 1]
    else:
        content["MG_FE_FLAG"][:] = [TEFF_CUT, GRIDEDGE_WARN, 1]
        content = without_arrays(content)
    table = read(tmp_path, content)
    np.testing.assert_equal(label(table, "mg_h"), [NAN, 0.15, NAN])
    assert np.isfinite(label(table, "al_h")).all()
    flags = "MG_FE_FLAG and 1 more" if arrays else "MG_FE_FLAG"
    assert f"2 values with bad bits in {flags} are not used." in table.notes


def test_bad_bits_of_iron_hide_what_is_turned_with_it(tmp_path: Path) -> None:
    content = without_arrays(all_star(DR17, NAN, "i8"))
    content["FE_H_FLAG"][0] = 1
    table = read(tmp_path, content)
    np.testing.assert_equal(label(table, "fe_h"), [NAN, 0.27, 0.37])
    np.testing.assert_equal(label(table, "mg_h"), [NAN, 0.15, 0.25])


def test_a_row_that_is_no_duplicate_goes_first_unless_it_is_bad(tmp_path: Path) -> None:
    content = all_star(DR17, 4800.0, "i8")
    content["APOGEE_ID"] = np.array([b"2MA", b"2MA", b"2MB"], dtype="S18")
    content["EXTRATARG"][:] = [1 << 4, 1, 1 << 4]
    (tmp_path / "bad").mkdir()
    table = read(tmp_path, content)
    assert table.rows_of([Path("/x")] * 3, ["2MA", "2MB", "2MC"], Path("/")).tolist() == [1, 2, -1]
    content["ASPCAPFLAG"][1] = STAR_BAD
    table = read(tmp_path / "bad", content)
    assert table.rows_of([Path("/x")] * 2, ["2MA", "2MB"], Path("/")).tolist() == [0, 2]


def of_astra() -> dict[str, Any]:
    """As astraAllStarASPCAP of DR19 and DR20 has its APOGEE spectra, in the second table."""
    return {
        "sdss_id": np.array([54392544, 61731247, 70000001, 70000002], dtype="i8"),
        "sdss4_apogee_id": np.array([b"2M00000002+7417074", b"2M00000019-1924498", b"", b""]),
        "teff": np.array([4500.0, 4700.0, 5100.0, NAN], dtype="f4"),
        "e_teff": np.array([8.0, 9.0, 7.0, NAN], dtype="f4"),
        "logg": np.array([2.5, 2.6, 4.4, NAN], dtype="f4"),
        "e_logg": np.array([0.02, 0.03, 0.02, NAN], dtype="f4"),
        "m_h_atm": np.array([0.0, 0.1, 0.2, NAN], dtype="f4"),
        "fe_h": np.array([-0.1, 0.1, 0.2, NAN], dtype="f4"),
        "e_fe_h": np.array([0.01, 0.01, 0.02, NAN], dtype="f4"),
        "fe_h_flags": np.array([0, 0, 1 << 9, 0], dtype="i4"),
        "c_h": np.array([0.1, 0.2, 0.3, NAN], dtype="f4"),
        "c_h_flags": np.array([1, 1 << 8, 1 << 7, 0], dtype="i4"),
        "c_1_h": np.array([0.11, 0.21, 0.31, NAN], dtype="f4"),
        "e_c_1_h": np.array([0.04, 0.05, 0.06, NAN], dtype="f4"),
        "c_1_h_flags": np.array([0, 1 << 10, 1 << 5, 0], dtype="i4"),
        "ti_2_h": np.array([0.12, 0.22, 0.32, NAN], dtype="f4"),
        "ce_h": np.array([0.0, 0.0, 0.0, NAN], dtype="f4"),
        "raw_teff": np.array([1.0, 1.0, 1.0, 1.0], dtype="f4"),
        "raw_c_h": np.array([9.0, 9.0, 9.0, 9.0], dtype="f4"),
        "raw_e_teff": np.array([1.0, 1.0, 1.0, 1.0], dtype="f4"),
        "flag_warn": np.array([True, True, True, True]),
        "flag_bad": np.array([False, True, False, False]),
    }


def check_astra(table: LabelTable) -> None:
    assert table.names == ("2M00000002+7417074", "2M00000019-1924498", "70000001", "70000002")
    np.testing.assert_equal(label(table, "teff"), [4500.0, NAN, 5100.0, NAN])
    np.testing.assert_equal(label(table, "fe_h"), [-0.1, NAN, 0.2, NAN])
    np.testing.assert_equal(label(table, "c_h"), [0.1, NAN, NAN, NAN])
    np.testing.assert_equal(label(table, "c_1_h"), [0.11, NAN, NAN, NAN])
    np.testing.assert_equal(label(table, "ti_2_h"), [0.12, NAN, 0.32, NAN])
    assert error(table, "teff")[0] == 8.0
    assert error(table, "c_1_h")[0] == 0.04
    assert table.notes[0] == "1 rows with flag_bad are not used."
    assert table.notes[1] == "3 values with bad bits in c_h_flags and 1 more are not used."
    assert table.notes[-1] == "Columns not understood as any of the 22 labels: ce_h."


@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
def test_the_tables_of_dr19_and_dr20_are_understood(tmp_path: Path, ending: str) -> None:
    content = of_astra()
    none = Table({name: values[:0] for name, values in content.items()})
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(none), fits.table_to_hdu(Table(content))]
    path = tmp_path / f"astraAllStarASPCAP-0.6.0{ending}"
    fits.HDUList(hdus).writeto(path)
    check_astra(read_label_table(path))


def test_a_table_of_dr19_may_be_rewritten_in_other_formats(tmp_path: Path) -> None:
    content = of_astra() | {"sdss4_apogee_id": ["2M00000002+7417074", "2M00000019-1924498", "", ""]}
    Table(content).write(tmp_path / "labels.csv", format="ascii.csv")
    check_astra(read_label_table(tmp_path / "labels.csv"))
    nulls = {"sdss4_apogee_id": [*content["sdss4_apogee_id"][:2], None, None]}
    columns = {name: pa.array(values) for name, values in (content | nulls).items()}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    check_astra(read_label_table(tmp_path / "labels.parquet"))


def test_arrays_come_from_parquet_too(tmp_path: Path) -> None:
    content = all_star(DR17, NAN, "i8")
    content["ELEMFLAG"][0, 5] = TEFF_CUT
    columns = {name: pa.array(list(values)) for name, values in content.items()}
    columns["APOGEE_ID"] = pa.array(STARS)
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    table = read_label_table(tmp_path / "labels.parquet")
    np.testing.assert_equal(label(table, "mg_h"), [NAN, 0.15, 0.25])
    assert error(table, "ni_h") == [0.02] * 3


def test_teff_log_g_and_iron_alone_are_enough(tmp_path: Path) -> None:
    content = {
        "obj": STARS,
        "teff": np.array([4500.0, 4700.0, 5100.0]),
        "logg": np.array([2.5, 2.6, 4.4]),
        "fe_h": np.array([-0.1, 0.1, 0.2]),
        "feh": np.array([-0.1, 0.1, 0.2]),
    }
    table = read(tmp_path, content)
    assert np.isfinite(table.labels).sum() == 9
    assert table.notes == (
        "No values for c_h, c_1_h, n_h, o_h, na_h, mg_h, al_h, si_h, p_h, s_h, k_h, ca_h, ti_h, "
        "ti_2_h, v_h, cr_h, mn_h, co_h, ni_h.",
        "Columns not understood as any of the 22 labels: feh.",
    )

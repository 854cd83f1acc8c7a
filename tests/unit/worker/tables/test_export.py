from __future__ import annotations

import math
from datetime import timedelta, timezone
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.table import MaskedColumn, Table
from sqlalchemy import Engine, update

from tests.inputs.result_rows import MOMENT, REASON
from worker.database.session import transaction
from worker.database.tables import Spectrum, UtcDateTime, label_columns
from worker.labels import LABELS
from worker.results import read
from worker.results.read import read_table

#: Section 6 of pipeline.md, written out.
LABEL_NAMES = """
    teff logg c_h c_1_h n_h o_h na_h mg_h al_h si_h p_h s_h k_h ca_h ti_h ti_2_h v_h cr_h mn_h fe_h
    co_h ni_h
"""
OTHER_NAMES = """
    spectrum_pk source_pk task_pk tag software_version created modified t_elapsed t_overhead
    result_flags no_result_reason weights_sha256 weights_name corrections_sha256 mc_samples seed
"""
PREFIXES = ("", "e_", "raw_", "raw_e_")


def test_columns_are_those_of_the_specification_each_once(table: Table) -> None:
    names = table.colnames
    assert len(names) == len(set(names))
    assert len({name.lower() for name in names}) == len(names)  # FITS ignores capitals
    assert set(names) >= set(OTHER_NAMES.split())
    assert {"c_1_h", "e_c_1_h", "raw_ti_2_h", "raw_e_ti_2_h"} <= set(names)
    assert not {"c1_h", "ti2_h"} & set(names)
    labels = {prefix + name for prefix in PREFIXES for name in LABEL_NAMES.split()}
    assert labels == {name for name in names if name.endswith(("_h", "teff", "logg"))}
    assert len(labels) == 4 * 22


def test_every_column_has_a_description_and_labels_have_their_units(table: Table) -> None:
    assert all(table[name].description for name in table.colnames)
    for label in LABELS:
        for prefix in PREFIXES:
            assert table[prefix + label.name].unit == units.Unit(label.unit)
            assert label.description in table[prefix + label.name].description
    assert len({table[name].description for name in table.colnames}) == len(table.colnames)


def test_rows_come_file_by_file_with_their_own_values(table: Table) -> None:
    assert table["spectrum_pk"].tolist() == [5, 1, 2, 3, 4]
    assert table["task_pk"].tolist() == [15, 11, 12, 13, 14]
    for row in table[:4]:
        values = [row[name] for name in label_columns()]
        np.testing.assert_array_equal(values, 1000 * row["spectrum_pk"] + np.arange(88))
    assert table["snr"].tolist() == [105.25, 101.25, 102.25, 103.25, 104.25]
    assert table["spectrum_flags"].tolist() == [2**40 + pk for pk in (5, 1, 2, 3, 4)]
    assert table["obj"].tolist() == ["Ångström", *["2M00452143+1634446"] * 4]


def test_what_is_missing_is_nan_masked_or_empty(table: Table) -> None:
    assert all(math.isnan(table[name][4]) for name in label_columns())
    assert math.isnan(table["t_elapsed"][4])
    assert isinstance(table["mc_samples"], MaskedColumn)
    assert table["mc_samples"].mask.tolist() == [False] * 4 + [True]
    assert table["source_pk"].mask.tolist() == [True] + [False] * 4
    assert table["healpix"].mask.tolist() == [True, False, True, True, True]
    assert table["no_result_reason"].tolist() == ["", "", "", "", REASON]
    assert table["corrections_sha256"].tolist() == ["", "cd" * 32, "", "", ""]
    assert table["weights_name"].tolist() == ["own.pt", "", "own.pt", "own.pt", "own.pt"]


def test_what_exceeds_single_precision_is_infinite(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(update(Spectrum).where(Spectrum.pk == 5).values(snr=1e300))
    assert math.isinf(read_table(engine)["snr"][0])


def test_flags_come_as_bits_and_as_truths(table: Table) -> None:
    assert table["result_flags"].tolist() == [5, 0, 2, 7, 2048]
    assert table["flag_warn"].tolist() == [True, False, True, True, True]
    assert table["flag_bad"].tolist() == [False, False, False, True, False]
    assert table["flag_no_result"].tolist() == [False, False, False, False, True]
    assert table["flag_bad"].dtype == bool


def test_moments_are_written_in_utc(table: Table) -> None:
    assert set(table["modified"]) == {"2024-06-07T12:30:16.250Z"}


def test_another_time_zone_does_not_shift_a_moment(table: Table) -> None:
    assert set(table["created"]) == {"2024-06-07T12:30:15.250Z"}


def test_moments_come_in_utc_whatever_zone_the_server_speaks() -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=-7)))
    moment = UtcDateTime().process_result_value(elsewhere, None)  # type: ignore[arg-type]
    assert moment == MOMENT
    assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("selection", "spectra"),
    [
        ({"kind": "coadd"}, [1]),
        ({"kind": "visit"}, [5, 2, 3, 4]),
        ({"tag": "second"}, [3]),
        ({"tag": "none"}, []),
        ({"jobs": [14, 11]}, [1, 4]),
        ({"jobs": []}, []),
        ({"jobs": [12, 13, 11], "kind": "visit", "tag": "first"}, [2]),
    ],
    ids=str,
)
def test_rows_can_be_selected(
    engine: Engine, selection: dict[str, Any], spectra: list[int]
) -> None:
    assert read_table(engine, **selection)["spectrum_pk"].tolist() == spectra


def test_many_jobs_are_read_in_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_JOBS_AT_ONCE", 2)
    assert sorted(read_table(engine, jobs=[11, 12, 13, 14, 15])["spectrum_pk"]) == [1, 2, 3, 4, 5]

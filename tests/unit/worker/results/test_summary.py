from __future__ import annotations

from pathlib import Path

from tests.inputs.result_rows import REASON, small_database
from worker.results.read import read_table
from worker.results.summary import summarise


def test_the_summary_counts_rows_kinds_reasons_and_flags(tmp_path: Path) -> None:
    with small_database(tmp_path) as engine:
        summary = summarise(read_table(engine))
    assert (summary.spectra, summary.coadds, summary.visits) == (5, 1, 4)
    assert (summary.labelled, summary.warn, summary.bad) == (4, 3, 1)
    assert summary.reasons == {REASON: 1}
    assert summary.flagged == {
        "flag_uncertain_logg": 2,
        "flag_uncertain_teff": 2,
        "flag_uncertain_fe_h": 2,
    }


def test_spectra_unlike_the_training_are_counted_where_any_weights_can_tell(tmp_path: Path) -> None:
    with small_database(tmp_path) as engine:
        rows = read_table(engine)
    rows["p_training"][0] = 0.5
    assert summarise(rows).flagged["flag_unlike_training"] == 0
    rows["result_flags"][0] |= 1 << 16
    assert summarise(rows).flagged["flag_unlike_training"] == 1


def test_the_summary_of_nothing_is_all_zeros(tmp_path: Path) -> None:
    with small_database(tmp_path) as engine:
        summary = summarise(read_table(engine, tag="none"))
    assert (summary.spectra, summary.labelled, summary.warn, summary.bad) == (0, 0, 0, 0)
    assert sum(summary.flagged.values()) == sum(summary.reasons.values()) == 0

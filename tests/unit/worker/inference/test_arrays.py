"""``from worker import infer``: arrays in, the rows of ``run --serial`` out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from producer.ledger.plan import Plan
from producer.progress import no_bar
from producer.running.run import carry_out, results_of
from producer.sources.files import find_files, spectra_of
from tests.conftest import Inputs, on_real_data
from tests.inputs.apstar_files import object_name, write_apstar
from tests.inputs.references import reference_of_anything, with_reference
from worker import infer
from worker.errors import FatalError, UsageError
from worker.identity import mask_key
from worker.labels import LABEL_NAMES
from worker.settings import Settings, get_settings
from worker.spectra.formats import read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.starter.bundled import DEMONSTRATION

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def arrays_of(folder: Path) -> tuple[Arrays, list[str], list[float | None]]:
    """Flux, errors and masks of the first three files, the keys of their masks and S/N."""
    spectra: list[SpectrumArrays] = []
    names, snr = [], []
    for file in find_files([folder], folder)[:3]:
        entries = spectra_of(file, folder, "both")
        read = read_spectra(file, [entry.member for entry in entries])
        spectra += [each for each in read if not isinstance(each, Exception)]
        names += [entry.mask_key for entry in entries]
        snr += [entry.snr for entry in entries]
    flux, error, mask = (
        np.array([getattr(each, part) for each in spectra]) for part in ("flux", "error", "mask")
    )
    return (flux, error, mask), names, snr


@pytest.fixture(autouse=True)
def _weights_of_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTRONN_STREAM_MODEL", "demonstration")


@pytest.fixture(scope="module")
def arrays(simulated_folder: Path) -> Arrays:
    """Of four simulated spectra."""
    (flux, error, mask), _, _ = arrays_of(simulated_folder)
    return flux[:4], error[:4], mask[:4]


@on_real_data
def test_rows_are_those_of_a_serial_run_to_the_last_bit(inputs: Inputs, tmp_path: Path) -> None:
    weights = with_reference(inputs.weights, tmp_path / "w.pt", reference_of_anything())
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'run.sqlite'}",
        data_root=inputs.folder,
        model=weights,
        corrections=inputs.corrections,
        mc_samples=7,
    )
    files = sorted(inputs.folder.rglob("*.fits"))[:3]
    plan = Plan.make(files, settings, wanted="both", tag="")
    rows = results_of(carry_out(plan, serial=True, headers=iter, bar=no_bar), plan)
    columns = ("path", "member", "obj", "plate", "mjd", "fiber")
    of_name = {mask_key(*(row[column] for column in columns)): row for row in rows}

    pixels, names, snr = arrays_of(inputs.folder)
    table = infer(
        *pixels,
        names,
        snr=np.array(snr, dtype=np.float64),
        weights=weights,
        noise_model=inputs.corrections,
        mc_samples=7,
    )
    assert len(table) == len(rows) >= 10
    known = rows["snr"] > 0
    assert (np.isfinite(rows["p_training"]) == known).all()
    assert len(set(rows["p_training"][known])) > 3
    for row in table:
        same = of_name[row["name"]]
        for column in table.colnames[1:]:
            np.testing.assert_array_equal(row[column], same[column], f"{row['name']} {column}")
    for column in table.colnames[1:]:
        assert table[column].dtype.kind == rows[column].dtype.kind
        assert table[column].unit == rows[column].unit


def test_a_star_has_the_same_labels_under_any_name_of_its_file(tmp_path: Path) -> None:
    visits = [f"asVisit-r8-lco25m-6005-{56000 + n}-{10 + n:03d}.fits" for n in (1, 2)]
    of_r8 = {f"SFILE{n}": name for n, name in enumerate(visits, 1)}
    write_apstar(tmp_path / "apStar-r6-a.fits", seed=5)
    write_apstar(tmp_path / "elsewhere" / "renamed.fits", seed=5, cards=of_r8)
    write_apstar(tmp_path / "other star.fits", seed=5, cards={"OBJID": object_name(6)})
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'run.sqlite'}", data_root=tmp_path, mc_samples=3
    )
    plan = Plan.make([tmp_path], settings, wanted="both", tag="")
    rows = results_of(carry_out(plan, serial=True, headers=iter, bar=no_bar), plan)
    one, same, other = (
        rows[rows["path"] == path]
        for path in ("apStar-r6-a.fits", "elsewhere/renamed.fits", "other star.fits")
    )
    assert same["member"].tolist() == ["coadd", *visits]
    assert np.isfinite(one["teff"]).all()
    for name in LABEL_NAMES:
        np.testing.assert_array_equal(one[f"raw_{name}"], same[f"raw_{name}"])
        np.testing.assert_array_equal(one[f"raw_e_{name}"], same[f"raw_e_{name}"])
        assert (one[f"raw_{name}"] != other[f"raw_{name}"]).all()


def test_a_spectrum_that_carries_nothing_has_its_reason_and_its_neighbours_their_labels(
    arrays: Arrays,
) -> None:
    flux, error, mask = (part.copy() for part in arrays)
    whole = infer(flux, error, mask, "abcd", mc_samples=2)
    flux[1] = 0
    mask[2, 246:3274] = 1  # the blue chip
    table = infer(flux, error, mask, "abcd", mc_samples=2)
    assert table["flag_no_result"].tolist() == [False, True, True, False]
    assert table["result_flags"][1] == 1 << 11
    assert np.isnan([table[name][1] for name in (*LABEL_NAMES, "e_teff", "raw_fe_h")]).all()
    assert "no usable flux" in table["no_result_reason"][1]
    assert table["no_result_reason"][2] == "The spectrum has every pixel masked in the blue chip."
    for column in whole.colnames:
        np.testing.assert_array_equal(whole[column][[0, 3]], table[column][[0, 3]], column)


def test_the_weights_of_the_package_say_what_they_are(
    arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = infer(*arrays, mc_samples=2)
    assert named.meta["notice"] == DEMONSTRATION.notice(0)
    monkeypatch.delenv("ASTRONN_STREAM_MODEL")
    get_settings.cache_clear()
    with pytest.warns(UserWarning, match="13 of 22 labels are not learnt") as warned:
        default = infer(*arrays, mc_samples=2)
    assert [str(each.message) for each in warned] == [default.meta["notice"]]
    again = infer(*arrays, mc_samples=2, weights="starter")
    assert again.meta == default.meta
    assert again["teff"].tolist() == default["teff"].tolist()


def test_without_names_labels_follow_from_the_numbers_not_from_the_order(arrays: Arrays) -> None:
    forth = infer(*arrays, mc_samples=2)
    back = infer(*(part[::-1] for part in arrays), mc_samples=2)
    assert forth["name"].tolist() == back["name"].tolist()[::-1]
    assert forth["raw_teff"].tolist() == back["raw_teff"].tolist()[::-1]
    assert len(set(forth["name"])) == 4


@pytest.mark.parametrize("kind", [">f4", ">f8", "f4"])
def test_arrays_may_have_any_byte_order_and_masks_be_floats(arrays: Arrays, kind: str) -> None:
    flux, error, mask = arrays
    table = infer(flux.astype(kind), error.astype(kind), mask.astype("f4"), "abcd", mc_samples=2)
    same = infer(flux.astype(kind).astype(float), error.astype(kind).astype(float), mask, "abcd",
                 mc_samples=2)  # fmt: skip
    assert table["raw_teff"].tolist() == same["raw_teff"].tolist()


def test_one_spectrum_needs_no_second_axis_and_none_give_no_rows(arrays: Arrays) -> None:
    table = infer(*(part[0] for part in arrays), mc_samples=2)
    assert isinstance(table, Table)
    assert len(table) == 1
    nothing = infer(*(part[:0] for part in arrays), mc_samples=2)
    assert len(nothing) == 0
    assert nothing.colnames == table.colnames


def test_arrays_that_do_not_fit_are_refused_with_a_sentence(arrays: Arrays) -> None:
    flux, error, mask = arrays
    with pytest.raises(UsageError, match=r"error has the shape \(3, 8575\)"):
        infer(flux, error[:3], mask)
    with pytest.raises(UsageError, match=r"has to be \(n, 8575\)"):
        infer(flux[:, :100], error[:, :100], mask[:, :100])
    with pytest.raises(UsageError, match="There are 2 names for 4 spectra"):
        infer(flux, error, mask, ["a", "b"])
    with pytest.raises(UsageError, match="There are 1 S/N for 4 spectra"):
        infer(flux, error, mask, snr=[5.0])
    with pytest.raises(FatalError, match="weights"):
        infer(flux, error, mask, weights="no-such-file.pt")

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from producer.sources.spectra_cache import SpectraCache, _parts, _Source, cached_spectra, match
from tests.inputs.apstar_files import object_name, write_apstar
from worker.errors import FatalError, UsageError
from worker.identity import Place
from worker.labels import LABEL_NAMES
from worker.spectra.load import load_spectra
from worker.training.label_table import LabelTable, read_label_table


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """Four stars in files of all layouts, one with one visit, and two files that are none."""
    folder = tmp_path / "survey"
    write_apstar(folder / "a.fits", era="dr13", n_visits=2, seed=1)
    write_apstar(folder / "b.fits", era="dr17", n_visits=1, seed=2)
    write_apstar(folder / "deep" / "c.fits.gz", era="sdss5", n_visits=3, seed=3)
    write_apstar(folder / "d.fits", era="dr13", n_visits=2, seed=4)
    (folder / "broken.fits").write_bytes(b"no FITS")
    write_apstar(folder / "short.fits", n_hdus=5)
    return folder


def cached(
    survey: Path, kind: Any = "both", processes: int = 1, coadd_mask: str = "and"
) -> SpectraCache:
    return cached_spectra(
        [survey],
        survey.parent / "out.spectra.npy",
        data_root=survey.parent,
        wanted=kind,
        coadd_mask=coadd_mask,
        processes=processes,
        progress=unseen,
    )


@contextmanager
def unseen(description: str, total: int) -> Iterator[Callable[[int], None]]:
    done: list[int] = []
    yield done.append
    assert sum(done) == total, description


def labels_of(survey: Path, content: dict[str, Any]) -> LabelTable:
    n = len(next(iter(content.values())))
    values = {name: np.arange(n) * 0.1 for name in LABEL_NAMES}
    Table({**values, **content}).write(survey.parent / "labels.fits", overwrite=True)
    return read_label_table(survey.parent / "labels.fits")


def test_each_row_of_the_cache_is_what_the_loader_makes_of_its_spectrum(survey: Path) -> None:
    cache = cached(survey)
    assert isinstance(cache.flux, np.memmap)
    assert cache.flux.dtype == np.float32
    assert len(cache.flux) == len(cache.spectra) == (1 + 2) + (1 + 1) + (1 + 3) + (1 + 2)
    for row, spectrum in zip(cache.flux, cache.spectra, strict=True):
        place = Place(spectrum.path, spectrum.member)
        loaded = load_spectra([place], survey.parent)
        np.testing.assert_array_equal(row, loaded.flux[0])
    assert {spectrum.star for spectrum in cache.spectra} == {object_name(n) for n in (1, 2, 3, 4)}
    of_first = [spectrum for spectrum in cache.spectra if spectrum.path == "survey/a.fits"]
    observed = ("coadd", "6001-56001-11", "6001-56002-12")
    assert [spectrum.mask_key for spectrum in of_first] == [
        f"{object_name(1)}/{each}" for each in observed
    ]
    assert [spectrum.snr for spectrum in of_first] == [100.0, 100.0, 50.0]


def test_spectra_that_cannot_be_read_are_left_out_and_counted_by_reason(survey: Path) -> None:
    failures = cached(survey).failures
    assert sum(failures.values()) == 2
    assert any("broken.fits is not a FITS file" in reason for reason in failures)
    assert any("short.fits has 5 of at least 10 HDUs" in reason for reason in failures)


def test_several_processes_write_the_same_cache(survey: Path) -> None:
    for seed in range(10, 30):  # more files than one process gets at a time
        write_apstar(survey / f"more-{seed}.fits", n_visits=1, seed=seed)
    alone = cached(survey)
    flux = np.array(alone.flux)
    (survey.parent / "out.spectra.json").unlink()
    together = cached(survey, processes=2)
    assert not together.reused
    np.testing.assert_array_equal(together.flux, flux)
    assert together.spectra == alone.spectra
    assert together.failures == alone.failures


def test_the_cache_serves_again_as_long_as_files_and_options_are_the_same(survey: Path) -> None:
    first = cached(survey)
    assert not first.reused
    again = cached(survey)
    assert again.reused
    assert (again.spectra, again.failures) == (first.spectra, first.failures)
    np.testing.assert_array_equal(again.flux, first.flux)


def touched(survey: Path) -> None:
    os.utime(survey / "a.fits", ns=(1, 1))


def added(survey: Path) -> None:
    write_apstar(survey / "e.fits", seed=5)


def removed(survey: Path) -> None:
    (survey / "a.fits").unlink()


def cut_off(survey: Path) -> None:
    """As when the program was killed while it wrote the cache."""
    (survey.parent / "out.spectra.json").write_text('{"digest"')


def without_spectra(survey: Path) -> None:
    (survey.parent / "out.spectra.npy").unlink()


@pytest.mark.parametrize("change", [touched, added, removed, cut_off, without_spectra])
def test_the_cache_is_made_anew_when_something_changed(
    survey: Path, change: Callable[[Path], None]
) -> None:
    cached(survey)
    change(survey)
    anew = cached(survey)
    assert not anew.reused
    assert len(anew.flux) == len(anew.spectra)
    assert cached(survey).reused


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("out.spectra.json", b'{"mine": 1}'),
        ("out.spectra.json", b"\xff\x00"),
        ("out.spectra.npy", b"mine"),
        ("out.spectra.npy", None),
    ],
)
def test_files_of_the_users_in_the_place_of_the_cache_are_refused_and_stay(
    survey: Path, name: str, content: bytes | None
) -> None:
    file = survey.parent / name
    if content is None:
        np.save(file, np.ones((3, 7)))
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(UsageError, match=rf"{name} is no cache of spectra and would be lost"):
        cached(survey)
    assert file.read_bytes() == before


@pytest.mark.parametrize("length", [0, 128, 1000])
def test_a_cache_that_was_cut_off_is_made_anew(survey: Path, length: int) -> None:
    whole = np.array(cached(survey).flux)
    file = survey.parent / "out.spectra.npy"
    file.write_bytes(file.read_bytes()[:length])
    (survey.parent / "out.spectra.json").unlink()
    np.testing.assert_array_equal(cached(survey).flux, whole)


def test_the_cache_is_made_anew_for_other_kinds_and_masks(survey: Path) -> None:
    cached(survey)
    coadds = cached(survey, "coadd")
    assert not coadds.reused
    assert {spectrum.member for spectrum in coadds.spectra} == {"coadd"}
    assert len(coadds.flux) == 4
    assert not cached(survey, "coadd", coadd_mask="or").reused
    assert len(cached(survey, "visit").flux) == 8


def test_who_has_the_old_cache_mapped_into_memory_keeps_it(survey: Path) -> None:
    """As a training in another terminal has it."""
    first = cached(survey)
    before = np.array(first.flux)
    coadds = cached(survey, "coadd")
    assert len(coadds.flux) < len(before)
    np.testing.assert_array_equal(first.flux, before)


def test_a_reading_process_that_is_killed_is_a_clear_end(survey: Path) -> None:
    source = _Source(survey.parent, "both", "and")
    parts = _parts([[survey / "a.fits"]] * 300, source, 2)
    next(parts)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(FatalError, match="A process that read spectra was killed"):
        list(parts)


def test_files_of_which_none_can_be_read_are_refused_with_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "survey"
    folder.mkdir()
    (folder / "broken.fits").write_bytes(b"no FITS")
    with pytest.raises(UsageError, match=r"None of the 1 files gives a spectrum: broken\.fits is"):
        cached(folder)


def test_a_cache_that_cannot_be_written_is_a_clear_end(survey: Path) -> None:
    with pytest.raises(FatalError, match=r"nowhere/x\.npy cannot be written"):
        cached_spectra(
            [survey],
            survey.parent / "nowhere" / "x.npy",
            data_root=survey.parent,
            wanted="coadd",
            coadd_mask="and",
            processes=1,
            progress=unseen,
        )


def test_spectra_get_the_labels_of_their_star_and_the_rest_is_counted(survey: Path) -> None:
    names = [object_name(n) for n in (3, 9, 1, 4)]
    teff = np.array([4300.0, 4900.0, 4100.0, np.nan])
    content = {"APOGEE_ID": names, "teff": teff, "e_teff": np.full(4, 50.0)}
    table = labels_of(survey, content)
    cache = cached(survey)
    matched = match(cache, table, survey.parent)
    # Star 2 has no row, row 9 no spectrum; star 4 has labels, though no Teff.
    data = matched.data
    assert len(data) == 3 + 4 + 3
    assert matched.spectra_without_labels == 2
    assert matched.rows_without_spectrum == 1
    expected = {names[0]: 4300.0, names[2]: 4100.0, names[3]: np.nan}
    np.testing.assert_array_equal(data.labels[:, 0], [expected[star] for star in data.stars])
    np.testing.assert_array_equal(data.e_labels[:, 0], 50.0)
    for index, key in enumerate(data.keys):
        spectrum = cache.spectra[data.rows[index]]
        assert (spectrum.mask_key, spectrum.star) == (key, data.stars[index])
        flux = data.spectra(np.array([index]))[0]
        np.testing.assert_array_equal(flux, cache.flux[data.rows[index]])


def test_an_snr_that_a_file_does_not_know_is_no_number(survey: Path) -> None:
    # DR17 writes SNRVIS1 = 0 for the visit of star 2, whose coadd has its S/N.
    table = labels_of(survey, {"obj": [object_name(2)] * 2})
    data = match(cached(survey), table, survey.parent).data
    np.testing.assert_array_equal(data.snr, [100.0, np.nan])


def test_paths_decide_where_the_table_has_them(survey: Path) -> None:
    paths = ["survey/b.fits", "survey/deep/c.fits.gz"]
    table = labels_of(survey, {"path": paths, "obj": [object_name(1)] * 2})
    data = match(cached(survey, "coadd"), table, survey.parent).data
    assert list(data.stars) == [object_name(2), object_name(3)]
    np.testing.assert_allclose(data.labels[:, 3], [0.0, 0.1])


def test_spectra_whose_row_knows_no_label_do_not_count(survey: Path) -> None:
    table = labels_of(survey, {"obj": [object_name(1), object_name(2)]})
    table.labels[0] = np.nan
    matched = match(cached(survey, "coadd"), table, survey.parent)
    assert list(matched.data.stars) == [object_name(2)]
    assert matched.spectra_without_labels == 3


def test_a_table_of_other_stars_is_refused_with_an_example_of_both(survey: Path) -> None:
    table = labels_of(survey, {"obj": ["2M1", "2M2"]})
    with pytest.raises(
        UsageError, match=r"any of the 4 spectra; its first is for '2M1', .*a\.fits"
    ):
        match(cached(survey, "coadd"), table, survey.parent)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from producer.commands.demo import Comparison, _page, _show, _shown_star
from producer.simulation.truth import Truth, TruthRow
from tests.inputs.apstar_files import write_apstar
from tests.inputs.result_rows import result, spectrum, store
from worker.database.session import opened
from worker.database.tables import AstroNN, Spectrum
from worker.errors import FatalError
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES, LABELS
from worker.results.read import read_table

#: Stars 0 to 19 are bright; 20 to 23 are faint and their labels far off; 24 has none.
STARS, BRIGHT, WITHOUT = 25, 20, 24
#: The only star that is bright and has three visits.
SHOWN = 5
ERRORS = (50.0, *[0.1] * (len(LABELS) - 1))
COADD = {"kind": "coadd", "member": "coadd", "plate": None, "mjd": None, "fiber": None}


def known(star: int) -> tuple[float, ...]:
    """The true labels of a star."""
    return (4500.0 + 10 * star, *(0.01 * star + 0.1 * n for n in range(1, len(LABELS))))


def path(star: int) -> str:
    return f"r6/stars/apStar-r6-{star:02d}.fits"


def snr(star: int) -> float:
    return 150.0 if star < BRIGHT else 60.0


def labels(star: int, off: float) -> dict[str, float]:
    """Labels that are so many times their uncertainty off."""
    columns = {}
    for name, value, error in zip(LABEL_NAMES, known(star), ERRORS, strict=True):
        columns |= {name: value + off * error, f"e_{name}": error}
    return columns


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    rows = {}
    for star in reversed(range(STARS)):  # in another order than the results
        place = (5.0, 10.0, 20.0)
        rows[star] = TruthRow(
            star, path(star), f"2M{star}", "dr13", "apo25m", 1, 1, snr(star), *place, known(star)
        )
    return Truth(tmp_path, {}, rows)


def rows_of(star: int) -> Iterator[tuple[Spectrum, AstroNN]]:
    """The coadd and a visit of a star; the visit is far off."""
    first, off = 2 * star + 1, 0.5 if star % 2 else -1.5
    about = {"obj": f"2M{star}", "path": path(star)}
    flags = ResultFlag.NO_RESULT if star == WITHOUT else 0
    found = {} if star == WITHOUT else labels(star, off if star < BRIGHT else 40.0)
    visits = 3 if star in (SHOWN, BRIGHT) else 1
    yield (
        spectrum(first, **about, **COADD, n_visits=visits, snr=snr(star)),
        result(first, flags, tag="", **found),
    )
    # DR17 writes 0 as the S/N of an only visit.
    yield (
        spectrum(first + 1, **about, snr=0.0 if star == 1 else 200.0),
        result(first + 1, 0, tag="", **labels(star, 40.0)),
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Results of all stars as they come out of a database, and of a file that is none of them."""
    pairs = [pair for star in range(STARS) for pair in rows_of(star)]
    foreign = 2 * STARS + 1
    pairs.append(
        (spectrum(foreign, **COADD, path="mine.fits", snr=300.0), result(foreign, 0, tag=""))
    )
    spectra, results = zip(*pairs, strict=True)
    with opened(f"sqlite:///{tmp_path / 'demo.sqlite'}") as engine:
        store(engine, spectra, results)
        return read_table(engine)


def test_each_result_gets_the_truth_of_its_file_and_others_are_left_out(
    table: Table, truth: Truth
) -> None:
    comparison = Comparison.of(table, truth)
    paths = [str(each) for each in comparison.table["path"]]
    expected = [path(star) for star in range(STARS) for _ in range(1 if star == WITHOUT else 2)]
    assert sorted(paths) == sorted(expected)
    stars = [int(each[-7:-5]) for each in paths]
    np.testing.assert_array_equal(comparison.known, [known(star) for star in stars])
    assert comparison.coadds.sum() == STARS - 1
    residuals = comparison.column("") - comparison.known
    off = [40.0 if star >= BRIGHT else 0.5 if star % 2 else -1.5 for star in range(STARS - 1)]
    np.testing.assert_allclose(
        residuals[comparison.coadds], np.outer(off, ERRORS), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(comparison.column("e_"), [ERRORS] * len(paths), rtol=1e-6)


def test_an_snr_that_a_file_does_not_know_is_none_in_the_pictures(
    table: Table, truth: Truth
) -> None:
    evaluated = Comparison.of(table, truth).evaluated()
    assert np.isnan(evaluated.snr).sum() == 1
    assert np.nanmin(evaluated.snr) == 60


def test_results_without_a_single_coadd_are_a_clear_end(table: Table, truth: Truth) -> None:
    with pytest.raises(FatalError, match="No coadd of the simulated survey got labels"):
        Comparison.of(table[table["kind"] == "visit"], truth)
    with pytest.raises(FatalError, match="No coadd of the simulated survey got labels"):
        Comparison.of(table[:0], truth)


def test_the_star_that_is_shown_is_bright_and_has_its_coadd_first(
    table: Table, truth: Truth
) -> None:
    comparison = Comparison.of(table, truth)
    rows = comparison.table[list(_shown_star(comparison))]
    assert list(rows["path"]) == [path(SHOWN)] * 2
    assert list(rows["kind"]) == ["coadd", "visit"]


def test_the_page_has_the_numbers_of_bright_coadds_alone(table: Table, truth: Truth) -> None:
    page = _page(Comparison.of(table, truth))
    # Half of the stars are 0.5 and half of them -1.5 sigma off: the median is -0.5, the median
    # absolute deviation 1 sigma.
    assert "| teff (K) | -25 | 74 | 50 | 50 % |" in page
    assert "| mg_h (dex) | -0.050 | 0.148 | 0.100 | 50 % |" in page
    assert sum(line.endswith("| 50 % |") for line in page) == len(LABELS)


def test_without_bright_coadds_the_page_has_no_numbers(table: Table, truth: Truth) -> None:
    faint = table[np.asarray(table["snr"]) < 100]
    assert not any(line.endswith(" % |") for line in _page(Comparison.of(faint, truth)))


def test_every_picture_of_the_page_is_drawn(table: Table, truth: Truth, tmp_path: Path) -> None:
    write_apstar(tmp_path / "survey" / path(SHOWN), n_visits=3)
    _show(tmp_path, Comparison.of(table, truth))
    page = (tmp_path / "demo.md").read_text()
    pictures = {each.name: each.read_bytes() for each in tmp_path.glob("*.png")}
    assert pictures.keys() == {"planes.png", "star.png", "predicted.png", "residuals.png"}
    for name, content in pictures.items():
        assert f"]({name})" in page
        assert content.startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_a_clear_end(
    table: Table, truth: Truth, tmp_path: Path
) -> None:
    with pytest.raises(FatalError, match=r"The pictures in .*nowhere cannot be written"):
        _show(tmp_path / "nowhere", Comparison.of(table, truth))

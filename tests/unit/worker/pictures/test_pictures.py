from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from sqlalchemy import Engine

from tests.inputs.drawn import NOISE, overlapping, sample, values
from worker.flags import BAD, ResultFlag
from worker.labels import LABELS
from worker.pictures.flag_table import flags
from worker.pictures.gallery import GALLERY
from worker.pictures.planes import kiel, magnesium, planes
from worker.pictures.sample import Sample
from worker.pictures.scatter import repeats, uncertainties
from worker.pictures.style import DARK, LIGHT, NothingToDrawError, Theme, rendered, save
from worker.results.read import RowSelection, read_table
from worker.tables.export import write_table

Draw = Callable[[Sample, Theme], Figure]


def points(axis: Axes) -> np.ndarray:
    """The points that are drawn one by one, ``(n, 2)``."""
    found = [each for each in axis.collections if isinstance(each, PathCollection)]
    return np.concatenate([np.asarray(each.get_offsets()) for each in found])


def test_the_kiel_diagram_shows_each_star_once_with_its_uncertainties() -> None:
    drawn = sample(10)
    axis, bar = kiel(drawn, LIGHT).axes
    coadds = drawn.only(drawn.coadds)
    expected = np.column_stack([values(coadds, "teff"), values(coadds, "logg")])
    assert np.allclose(points(axis), expected)
    assert len(axis.containers) == 1  # the error bars
    assert axis.xaxis_inverted()
    assert axis.yaxis_inverted()
    assert axis.get_xlabel() == r"$T_\mathrm{eff}$ (K)"
    assert axis.get_ylabel() == r"$\log\,g$ (dex)"
    assert bar.get_ylabel() == "[Fe/H] (dex)"
    assert axis.get_title(loc="left") == "coadds: 10"


def test_visits_stand_for_stars_where_there_are_no_coadds_and_bad_ones_are_left_out() -> None:
    drawn = sample(10)
    drawn = drawn.only(~drawn.coadds)
    drawn.flags[:3] = BAD.value
    drawn.flags[3] = ResultFlag.UNCERTAIN_TEFF.value
    drawn.flags[4] = ResultFlag.NO_RESULT.value
    axis = magnesium(drawn, LIGHT).axes[0]
    assert len(points(axis)) == 16
    assert axis.get_title(loc="left") == "visits: 16, without 3 flag_bad"
    drawn.flags[2:6] |= ResultFlag.UNLIKE_TRAINING.value  # one is bad too, one has no labels
    axis = magnesium(drawn, LIGHT).axes[0]
    assert len(points(axis)) == 14
    title = "visits: 14, without 3 flag_bad, 3 flag_unlike_training"
    assert axis.get_title(loc="left") == title


def test_abundances_are_over_iron() -> None:
    drawn = sample(8)
    figure = planes(drawn, LIGHT)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert len(panels) == 19
    coadds = drawn.only(drawn.coadds)
    iron = values(coadds, "fe_h")
    for name, title in (("mg_h", "[Mg/Fe]"), ("ti_2_h", "[Ti II/Fe]"), ("ni_h", "[Ni/Fe]")):
        expected = np.column_stack([iron, values(coadds, name) - iron])
        assert np.allclose(points(panels[title]), expected)


def test_labels_that_are_not_learnt_have_no_panels() -> None:
    drawn = sample(30)
    for values_ in (drawn.labels, drawn.errors):
        values_[:, [2, 12]] = np.nan  # [C/H], [K/H]
    assert drawn.labelled.all()
    for draw, number in ((planes, 17), (uncertainties, 20), (repeats, 20)):
        titles = [axis.get_title() for axis in draw(drawn, LIGHT).axes if axis.get_title()]
        assert len(titles) == number
        assert not [title for title in titles if "[K/" in title or "[C/" in title]
    # Where other rows have them, panels show those alone.
    drawn.labels[:60, 12], drawn.errors[:60, 12] = 0.1, 0.05
    panels = {axis.get_title(): axis for axis in uncertainties(drawn, LIGHT).axes}
    assert len(points(panels["[K/H] (dex)"])) == 60
    panels = {axis.get_title(): axis for axis in planes(drawn, LIGHT).axes}
    assert len(points(panels["[K/Fe]"])) == 20


@pytest.mark.parametrize(("draw", "name"), [(kiel, "logg"), (magnesium, "mg_h"), (planes, "fe_h")])
def test_a_picture_without_its_labels_says_which_it_wants(draw: Draw, name: str) -> None:
    drawn = sample(3)
    drawn.labels[:, LABELS.index(next(each for each in LABELS if each.name == name))] = np.nan
    with pytest.raises(NothingToDrawError, match=rf"No spectrum has .*{name}"):
        draw(drawn, LIGHT)


@pytest.mark.parametrize("draw", [kiel, magnesium])
def test_many_stars_are_a_density_with_one_typical_uncertainty(draw: Draw) -> None:
    axis = draw(sample(5001, visits=0), LIGHT).axes[0]
    (cells,) = [each for each in axis.collections if isinstance(each, PolyCollection)]
    assert 100 < len(cells.get_offsets()) < 5000
    assert not [each for each in axis.collections if isinstance(each, PathCollection)]
    (cross,) = axis.containers
    assert len(cross[2][0].get_segments()) == 1


def test_uncertainties_are_drawn_where_the_snr_is_known() -> None:
    drawn = sample(40)
    drawn.snr[:5] = np.nan
    figure = uncertainties(drawn, LIGHT)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert len(panels) == len(LABELS)
    shown = points(panels[r"$T_\mathrm{eff}$ (K)"])
    assert len(shown) == 115
    assert (shown[:, 1] == 30).all()
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["visits: 77", "coadds: 38"]


@pytest.mark.parametrize("ends", [(120, 120), (41, 48), (0.5, 9), (20, 200), (3, 2000)])
def test_an_axis_of_snr_has_numbers_wherever_it_lies(ends: tuple[float, float]) -> None:
    drawn = sample(2)
    drawn.snr[:] = np.linspace(*ends, len(drawn.snr))
    (low, high), ticks = _snr_axis(uncertainties(drawn, LIGHT).axes[0])
    assert low < ends[0] <= ends[1] < high
    assert sum(low <= tick <= high for tick in ticks) >= 2


def _snr_axis(axis: Axes) -> tuple[tuple[float, float], list[float]]:
    """Its ends, and the numbers that are written on it."""
    return axis.get_xlim(), [float(label.get_text()) for label in axis.get_xticklabels()]


@pytest.mark.parametrize("visits", [2, 3, 6])
def test_visits_scatter_by_their_noise_however_many_a_star_has(visits: int) -> None:
    figure = repeats(sample(3000 // visits, visits), LIGHT)
    for axis, noise in zip(figure.axes, NOISE, strict=False):
        lines = [np.asarray(line.get_ydata()) for line in axis.lines if line.get_c() == LIGHT.first]
        sigma = np.median([line for line in lines if line.mean() > 0])
        assert sigma == pytest.approx(noise, rel=0.12)
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == f"visits: 3,000, stars: {3000 // visits:,}"


def test_few_visits_have_no_running_numbers_and_no_key_to_them() -> None:
    for draw, keys in ((repeats, 1), (uncertainties, 2)):
        figure = draw(sample(3), LIGHT)
        legend = figure.axes[-1].get_legend()
        assert legend is not None
        assert len(legend.get_texts()) == keys
        assert {line.get_linestyle() for line in legend.get_lines()} == {"None"}
    legend = repeats(sample(30), LIGHT).axes[-1].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 3


def test_flags_are_parts_of_the_spectra_of_their_snr() -> None:
    drawn = sample(40, visits=0)
    drawn.snr[:] = np.repeat([10.0, 60.0, 300.0, np.nan], 10)
    drawn.flags[:2] = ResultFlag.UNCERTAIN_TEFF.value
    drawn.flags[10] = BAD.value
    drawn.flags[30:] = ResultFlag.NO_RESULT.value
    (axis,) = flags(drawn, LIGHT).axes
    rows = [label.get_text() for label in axis.get_yticklabels()]
    columns = [label.get_text().split("\n") for label in axis.get_xticklabels()]
    assert columns == [["0–20", "10"], ["50–100", "10"], ["> 200", "10"], ["unknown", "10"]]
    cells = np.array([text.get_text() for text in axis.texts]).reshape(len(rows), 4)
    told = dict(zip(rows, cells.tolist(), strict=True))
    assert told["flag_uncertain_teff"] == ["20 %", "10 %", "0 %", "0 %"]
    assert told["flag_uncertain_logg"] == ["0 %", "10 %", "0 %", "0 %"]
    assert told["flag_no_result"] == ["0 %", "0 %", "0 %", "100 %"]
    assert told["flag_warn"] == ["20 %", "10 %", "0 %", "100 %"]
    assert told["flag_bad"] == ["0 %", "10 %", "0 %", "0 %"]


@pytest.mark.parametrize("stars", [1, 60])
@pytest.mark.parametrize("name", GALLERY)
def test_no_text_lies_upon_another(name: str, stars: int) -> None:
    assert overlapping(GALLERY[name].draw(sample(stars), DARK)) == []


@pytest.mark.parametrize("draw", [kiel, magnesium, planes, uncertainties, repeats])
def test_spectra_without_labels_leave_nothing_to_draw(draw: Draw) -> None:
    drawn = sample(3)
    without = replace(drawn, flags=np.full(len(drawn), ResultFlag.NO_RESULT.value))
    with pytest.raises(NothingToDrawError, match=r"^No (spectrum|star) has [^.]*\.$"):
        draw(without, LIGHT)


def test_stars_that_are_all_bad_are_not_drawn() -> None:
    drawn = sample(3)
    drawn.flags[:] = BAD.value
    with pytest.raises(NothingToDrawError, match=r"All coadds that have labels are flag_bad\."):
        kiel(drawn, LIGHT)


@pytest.mark.parametrize(("theme", "paper"), [(LIGHT, 1.0), (DARK, 0.08)])
def test_files_have_the_paper_of_their_theme_and_change_no_settings(
    theme: Theme, paper: float, tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)
    figure = kiel(sample(5), theme)
    save(figure, tmp_path / "kiel.png", theme)
    save(figure, tmp_path / "kiel.pdf", theme)
    assert dict(mpl.rcParams) == before
    corner = mpl.image.imread(tmp_path / "kiel.png")[0, 0, 0]
    assert corner == pytest.approx(paper, abs=0.01)
    content = (tmp_path / "kiel.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    one, other = (rendered(kiel(sample(5), theme), "pdf", theme) for _ in range(2))
    assert one == other


def test_a_table_and_the_database_are_the_same_sample(engine: Engine, tmp_path: Path) -> None:
    ours = Sample.of_database(engine, RowSelection())
    assert ours.labelled.tolist().count(False) == 1
    assert ours.star.min() == -1  # a spectrum without a star
    for ending in ("fits", "parquet", "ecsv", "csv"):
        path = tmp_path / f"labels.{ending}"
        write_table(read_table(engine), path)
        theirs = Sample.of_file(path)
        for name in vars(ours):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), ending)

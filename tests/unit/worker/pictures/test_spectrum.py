from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inputs.apstar_files import write_apstar
from tests.inputs.drawn import overlapping
from worker.errors import SpectrumError
from worker.flags import ResultFlag
from worker.labels import LABEL_NAMES, LABELS
from worker.pictures.spectrum import Seen, read_seen, spectrum_page
from worker.pictures.style import DARK, LIGHT, rendered
from worker.spectra.formats.apstar import read_spectra
from worker.spectra.formats.format import SpectrumArrays
from worker.spectra.pixels import CHIPS, MASKED_BITS
from worker.spectra.windows import element_window


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_apstar(tmp_path / "apStar-r6-x.fits").path


@pytest.fixture
def seen(file: Path) -> Seen:
    return read_seen(file.parent, file.name, "coadd", "and")


def row(**changes: Any) -> dict[str, Any]:
    values = dict.fromkeys(LABEL_NAMES, -0.25) | {"teff": 4512.4, "logg": 2.345}
    errors = {f"e_{name}": 0.0312 for name in LABEL_NAMES} | {"e_teff": 31.4}
    return {**values, **errors, "result_flags": 0, "no_result_reason": "", **changes}


def test_what_is_masked_is_what_the_file_says_and_is_one(file: Path, seen: Seen) -> None:
    (spectrum,) = read_spectra(file, ["coadd"])
    assert isinstance(spectrum, SpectrumArrays)
    mask = np.concatenate([spectrum.mask[chip] for chip in CHIPS.values()])
    assert np.array_equal(seen.masked, (mask & MASKED_BITS) != 0)
    assert 0 < seen.masked.sum() < 2000
    assert (seen.flux[seen.masked] == 1).all()


def test_a_spectrum_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(SpectrumError, match="does not hold the visit other"):
        read_seen(file.parent, file.name, "other", "and")


def test_the_page_shows_every_chip_the_masked_pixels_and_the_windows(seen: Seen) -> None:
    figure = spectrum_page(seen, "a star", row(), LIGHT)
    pages = figure.axes[:6]
    flux, windows = pages[::2], pages[1::2]
    assert [axis.get_ylabel() for axis in flux] == [f"flux, {chip} chip" for chip in CHIPS]
    lines = {axis: [line for line in axis.lines if line.get_color() == "black"] for axis in flux}
    drawn = np.concatenate([np.asarray(found[-1].get_ydata()) for found in lines.values()])
    assert np.array_equal(drawn, seen.flux)
    marks = [line for axis in flux for line in axis.lines if line.get_marker() == "|"]
    assert sum(len(np.asarray(line.get_xdata())) for line in marks) == seen.masked.sum()
    elements = [str(label.element) for label in LABELS if label.element is not None]
    for number, element in enumerate(elements):
        runs = sum(len(axis.collections[number].get_paths()) for axis in windows)
        edges = np.diff(element_window(element).astype(int), prepend=0, append=0)
        assert abs(runs - np.sum(edges > 0)) <= 2  # a run may go on in the next chip


def test_the_page_tells_labels_with_uncertainties_and_flags(seen: Seen) -> None:
    figure = spectrum_page(seen, "a star", row(result_flags=3), LIGHT)
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert texts[:6] == [
        r"$T_\mathrm{eff}$", "4512", "± 31 K", r"$\log\,g$", "2.35", "± 0.03 dex",
    ]  # fmt: skip
    assert texts.count("−0.250") == 20
    assert texts[-1] == "flag_uncertain_logg\nflag_uncertain_teff"
    assert overlapping(figure) == []


def test_the_page_says_which_labels_are_not_learnt(seen: Seen) -> None:
    unknown = {"teff": np.nan, "e_teff": np.nan, "k_h": np.nan, "e_k_h": np.nan}
    figure = spectrum_page(seen, "a star", row(**unknown), LIGHT)
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert texts[:3] == [r"$T_\mathrm{eff}$", "not learnt", r"$\log\,g$"]
    assert texts.count("not learnt") == 2
    assert texts.count("−0.250") == 19
    assert overlapping(figure) == []


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (None, "no labels in these results"),
        (
            row(teff=np.nan, result_flags=ResultFlag.NO_RESULT.value, no_result_reason="$\\x{"),
            "no labels: \\$\\x{",
        ),
    ],
)
def test_without_labels_the_page_says_why(
    seen: Seen, result: dict[str, Any] | None, told: str
) -> None:
    figure = spectrum_page(seen, "a $\\frac{ star\x1b[2J", result, DARK)
    assert [text.get_text() for text in figure.axes[-1].texts] == [told]
    assert rendered(figure, "png", DARK).startswith(b"\x89PNG")

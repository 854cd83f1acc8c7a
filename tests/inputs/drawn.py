"""Simulated samples of results, and what the tests of pictures ask of a figure."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from worker.labels import LABEL_NAMES
from worker.pictures.sample import Sample

#: Typical label and noise of the simulated visits.
TRUTH = np.array([4800.0, 2.5, *np.linspace(-0.5, 0.4, 20)])
TRUTH[LABEL_NAMES.index("fe_h")] = -2.0  # where no uncertainty is flagged
NOISE = np.array([30.0, 0.05, *np.full(20, 0.04)])


def sample(stars: int, visits: int = 2, seed: int = 0) -> Sample:
    """Stars with a coadd and visits each, whose uncertainties are what their labels scatter by."""
    random = np.random.default_rng(seed)
    star = np.repeat(np.arange(stars), visits + 1)
    n = len(star)
    true = TRUTH + random.normal(size=(stars, 22)) * 5 * NOISE
    return Sample(
        coadds=np.arange(n) % (visits + 1) == 0,
        snr=random.uniform(20, 200, n).astype(np.float32),
        flags=np.zeros(n, dtype=np.int64),
        star=star,
        mjd=np.arange(n),
        fiber=np.ones(n, dtype=np.int64),
        labels=(true[star] + random.normal(size=(n, 22)) * NOISE).astype(np.float32),
        errors=np.tile(NOISE, (n, 1)).astype(np.float32),
    )


def values(of: Sample, name: str) -> np.ndarray:
    return of.labels[:, LABEL_NAMES.index(name)]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Texts of a figure that lie upon each other, or leave it."""
    figure.draw_without_rendering()
    shown = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
    pairs = [
        (one, other)
        for (one, box), (other, place) in combinations(shown, 2)
        if box.x0 < place.x1 and place.x0 < box.x1 and box.y0 < place.y1 and place.y0 < box.y1
    ]
    edge = figure.bbox
    pairs += [
        (text, "edge")
        for text, box in shown
        if box.x0 < edge.x0 or box.x1 > edge.x1 or box.y0 < edge.y0 or box.y1 > edge.y1
    ]
    return pairs


def _texts(figure: Figure) -> list[Text]:
    """All that is written, without the ticks beyond the ends of an axis, which are not drawn."""
    axes = [each for each in figure.findobj(Axis) if isinstance(each, Axis)]
    ticks = {id(text) for axis in axes for text in axis.findobj(Text)}
    drawn = {
        id(label)
        for axis in axes
        if axis.axes.axison
        for tick in axis._update_ticks()  # type: ignore[attr-defined]
        for label in (tick.label1, tick.label2)
    }
    drawn |= {id(axis.label) for axis in axes if axis.axes.axison}
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text)
        and text.get_visible()
        and text.get_text().strip()
        and (id(text) in drawn or id(text) not in ticks)
    ]

"""What a calibration is written to: JSON for the recorder, a pickle for the peers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.calibration.calibration import LabelCalibration
from worker.calibration.widths import LabelPulls
from worker.labels import LABEL_NAMES
from worker.results.noise_model import by_snr_entry

#: What a reader of the file has to know.
NOTES = (
    "e = scale * raw_e + offset, times the factor by S/N where there is one.",
    "Under it visits of one star differ as they should. What all visits of a star have in common, "
    "such as the network's own errors, is not in it: e is a repeatability, not an accuracy.",
    "Intervals are those of a bootstrap over stars; all 44 hold together with 95 per cent.",
    "Widths are those of z, 1 for a unit normal, as [pairs, before, after] by the lower S/N of "
    "the two visits.",
)

#: The bins of the peers' histograms.
_BINS = np.linspace(-5, 5, 100)


def corrections_json(
    labels: Sequence[LabelCalibration], pulls: Sequence[LabelPulls], about: Mapping[str, Any]
) -> str:
    """The file's text, the same for the same calibration: its SHA-256 names the noise model."""
    content = {
        name: _entry(label, each)
        for name, label, each in zip(LABEL_NAMES, labels, pulls, strict=True)
    }
    return json.dumps({**content, "about": {**about, "notes": NOTES}}, indent=1) + "\n"


def _entry(label: LabelCalibration, pulls: LabelPulls) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "scale": label.scale,
        "offset": label.offset,
        **({} if label.by_snr is None else {"by_snr": by_snr_entry(label.by_snr)}),
        "scale_interval": label.interval("scale"),
        "offset_interval": label.interval("offset"),
        "scale_error": label.scale_error,
        "offset_error": label.offset_error,
        "correlation": label.correlation,
        "outliers": label.outliers,
        "stars": label.stars,
        "pairs": label.pairs,
        "widths": pulls.widths(),
    }
    return {**entry, "note": label.note} if label.note else entry


def corrections_pickle(labels: Sequence[LabelCalibration], pulls: Sequence[LabelPulls]) -> bytes:
    """The same scales and offsets as the peers keep theirs: ``(corrections, meta)``.

    Theirs lists a grid of factors and their costs; here the grid is the one pair that was
    fitted. It holds no factors by S/N.
    """
    centres = 0.5 * (_BINS[:-1] + _BINS[1:])
    reference = np.exp(-0.5 * centres**2) / np.sqrt(2 * np.pi)
    corrections = {
        name: _peers_entry(label, each, reference)
        for name, label, each in zip(LABEL_NAMES, labels, pulls, strict=True)
    }
    meta = {"bin_edges": _BINS, "reference_pdf": reference}
    return pickle.dumps((corrections, meta), protocol=4)


def _peers_entry(
    label: LabelCalibration, pulls: LabelPulls, reference: NDArray[np.float64]
) -> dict[str, Any]:
    inside = np.abs(pulls.after) <= _BINS[-1]
    counts, _ = np.histogram(pulls.after[inside], _BINS, weights=pulls.weight[inside])
    pdf = counts / max(counts.sum(), 1e-300) / np.diff(_BINS)
    cost = np.sum((pdf - reference) ** 2)
    scale, offset = np.float64(label.scale), np.float64(label.offset)
    return {
        "N": label.pairs,
        "costs": [cost],
        "offsets": np.array([offset]),
        "scales": np.array([scale]),
        "offset": offset,
        "scale": scale,
        "best_index": 0,
        "best_cost": cost,
        "best_z_pdf": pdf,
    }

"""How good are the labels? Held-out simulated stars at four S/N, against their truth.

uv run --group dev -m benchmarks.labels [--model FILE --corrections FILE] [--stars 800] [--seed 7]

Prints a table of all 22 labels: scatter (1.4826 times the median absolute deviation of what is
found less the truth) and the share of stars within one sigma after the noise model. The stars
are simulated with a seed of their own; no training saw them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from producer.simulation.survey import Survey, write_survey
from producer.simulation.truth import Truth
from worker.comparison.statistics import spread
from worker.identity import COADD, Place, weights_sha256
from worker.labels import LABELS
from worker.network.checkpoint import read_checkpoint
from worker.network.engines.choose import choose_device, open_engine
from worker.results.noise_model import read_noise_model
from worker.settings import Settings
from worker.spectra.load import load_spectra

SNR = (20.0, 50.0, 100.0, 200.0)

Floats = NDArray[np.float64]


def held_out(
    folder: Path, stars: int, seed: int, snr: float
) -> tuple[NDArray[np.float32], Floats, Floats]:
    """Normalised coadds of one visit each, their true labels, and S/N as their files have it."""
    survey = Survey(stars, visits=1, seed=seed, layout="mixed", snr=(snr, snr))
    truth = Truth.of(folder, survey.settings())
    write_survey(survey, folder, truth, 2, lambda _: None)
    known = truth.table()
    places = [Place(path, COADD) for path in known["path"]]
    loaded = load_spectra(places, folder)
    rows = [places.index(place) for place in loaded.spectra]
    labels = np.column_stack([known[label.name] for label in LABELS])
    measured = np.asarray(known["snr"], dtype=np.float64)
    return loaded.flux, np.asarray(labels, dtype=np.float64)[rows], measured[rows]


def scatter(residuals: Floats) -> Floats:
    """The scatter of each label, as the report of a training has it."""
    return np.array([spread(of_label)["scatter"] for of_label in residuals.T])


def main() -> None:
    """Simulate stars, infer and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--corrections", type=Path)
    parser.add_argument("--stars", type=int, default=800)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    settings = Settings(model=arguments.model, corrections=arguments.corrections)
    weights = settings.weights_file
    engine = open_engine(
        read_checkpoint(weights), mc_samples=100, seed=0, device=choose_device("auto")
    )
    noise_model = read_noise_model(settings.corrections_file(weights_sha256(weights)))
    columns = []
    for snr in SNR:
        with tempfile.TemporaryDirectory() as folder:
            flux, known, measured = held_out(Path(folder), arguments.stars, arguments.seed, snr)
        found, errors = engine(flux, [f"star {number}" for number in range(len(flux))])
        residuals = found - known
        within = np.mean(np.abs(residuals) < noise_model.apply(errors, measured), axis=0)
        columns.append((scatter(residuals), within))
    print(f"{arguments.stars} stars at each S/N, weights {weights.name}")
    print("| label | " + " | ".join(f"S/N {snr:g}" for snr in SNR) + " |")
    print("|---|" + "---:|" * len(SNR))
    for position, label in enumerate(LABELS):
        digits = 1 if label.unit == "K" else 3
        cells = [
            f"{scatters[position]:.{digits}f} ({100 * part[position]:.0f} %)"
            for scatters, part in columns
        ]
        print(f"| {label.name} ({label.unit}) | " + " | ".join(cells) + " |")
    medians = [
        f"{np.median(scatters[2:]):.3f} ({100 * np.median(part[2:]):.0f} %)"
        for scatters, part in columns
    ]
    print("| median of the 20 abundances (dex) | " + " | ".join(medians) + " |")


if __name__ == "__main__":
    main()

"""Are labels right for models of real stars that others made, and are odd spectra told?

uv run --group dev -m benchmarks.real_stars [--model W --corrections FILE] [--stars 300]
    [--models dwarfs giants synthetic]

Two tables. First labels of spectra of those models, whose labels are known: bias, scatter, and
the share within one sigma. The spectra have plain noise and a smooth continuum, and are made
without the telescope of the simulator that the weights were trained with; pixels that the models
lack have the nearest flux. Then what p_training makes of odd spectra: the AUC against ordinary
ones (0.5: it cannot tell, 1: always), and the share that is flagged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table

from producer.simulation.population import dwarfs, giants
from producer.simulation.star_models import Model
from producer.simulation.star_models.population import labels_of
from producer.simulation.star_models.spectra import numbers, rest_spectrum
from worker.array_types import Floats
from worker.comparison.statistics import spread
from worker.flags import LEAST_P_TRAINING
from worker.inference.arrays import infer
from worker.labels import LABEL_NAMES
from worker.spectra.pixels import N_APSTAR
from worker.starter.bundled import STARTER, weights_path

SNR = (20.0, 50.0, 100.0)
#: Where the models' pixels lie in an apStar row, and in their own arrays.
SEEN = (slice(322, 3242), slice(3648, 6048), slice(6412, 8306))
CHIPS = (slice(0, 2920), slice(2920, 5320), slice(5320, 7214))
#: Pixels beside those of a chip that get the flux of its first and its last.
BESIDE = 90
LEVEL = 1000.0
#: Hydrogen's Brackett lines, upper levels 10 to 23 (Angstrom).
BRACKETT = 1 / (1.0967758e-3 * (1 / 16 - 1 / np.arange(10.0, 24.0) ** 2))


def drawn(model: Model, n: int, rng: np.random.Generator) -> Floats:
    """Parameters of stars in the middle of what a model is trusted with, ``(n, 4 or 5)``."""
    if model == Model.GIANTS:
        known = numbers(model)["training_labels"].astype(float)
        known = known[(known[:, 2] > -1.4) & (known[:, 2] < 0.38) & (known[:, 0] > 4000)]
        return np.asarray(known[rng.integers(len(known), size=n)])
    fe_h, alpha = rng.uniform(-0.7, 0.35, n), rng.uniform(-0.03, 0.28, n)
    teff, logg = dwarfs(rng.uniform(0.25, 0.98, n), rng.random(n), rng.normal(size=n))
    if model == Model.DWARFS:
        return np.column_stack(
            [teff, np.clip(logg, 4.03, 4.95), fe_h, alpha, rng.uniform(0, 12, n)]
        )
    branch = giants(np.ones(n), rng.uniform(0.05, 1, n), rng.normal(size=n), fe_h, alpha)
    teff, logg = np.where(rng.random(n) < 0.6, branch, (teff, logg))
    return np.column_stack([np.clip(teff, 3600, 6900), np.clip(logg, 0.5, 4.8), fe_h, alpha])


def observed(flux: Floats, snr: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Rows of 8575 and their errors, of ``(n, 7214)`` flux about 1."""
    rows = np.full((len(flux), N_APSTAR), np.nan)
    place = np.linspace(-1, 1, N_APSTAR)
    for seen, chip in zip(SEEN, CHIPS, strict=True):
        rows[:, seen] = flux[:, chip]
        rows[:, seen.start - BESIDE : seen.start] = flux[:, chip][:, :1]
        rows[:, seen.stop : seen.stop + BESIDE] = flux[:, chip][:, -1:]
    slope, bend = rng.uniform(-0.2, 0.2, (len(flux), 1)), rng.uniform(-0.05, 0.05, (len(flux), 1))
    rows *= LEVEL * (1 + slope * place + bend * place**2)
    errors = np.where(np.isfinite(rows), LEVEL / snr, 1e10)
    return np.where(np.isfinite(rows), rows, 0) + rng.standard_normal(rows.shape) * np.where(
        np.isfinite(rows), errors, 0
    ), errors


def labelled(
    flux: Floats, snr: float, rng: np.random.Generator, arguments: argparse.Namespace
) -> Table:
    """What the weights say of spectra of a given S/N."""
    rows, errors = observed(flux, snr, rng)
    names = [f"star {number}" for number in range(len(flux))]
    return infer(
        *(rows, errors, np.zeros(rows.shape, dtype=int), names),
        snr=np.full(len(flux), snr),
        weights=arguments.model,
        noise_model=arguments.corrections,
    )


def print_labels(model: Model, snr: float, found: Table, parameters: Floats) -> None:
    """Bias, scatter and share within one sigma of Teff, log g, [Fe/H] and [Mg/Fe]."""
    known = dict(
        zip(
            LABEL_NAMES,
            np.array([labels_of(model, row.copy()) for row in parameters]).T,
            strict=True,
        )
    )
    cells = []
    for name, digits in (("teff", 0), ("logg", 2), ("fe_h", 3)):
        residual = np.asarray(found[name]) - known[name]
        numbers_ = spread(residual)
        within = np.mean(np.abs(residual) < np.asarray(found[f"e_{name}"]))
        cells.append(
            f"{numbers_['bias']:+9.{digits}f}{numbers_['scatter']:8.{digits}f}{within:6.2f}"
        )
    alpha = np.asarray(found["mg_h"]) - np.asarray(found["fe_h"]) - known["mg_h"] + known["fe_h"]
    numbers_ = spread(alpha)
    cells.append(f"{numbers_['bias']:+9.3f}{numbers_['scatter']:8.3f}")
    print(f"{model:10} {snr:5.0f}" + "".join(cells))


def smoothed(flux: Floats, sigma: float) -> Floats:
    """Spectra convolved with a Gaussian of so many pixels."""
    frequency = np.fft.rfftfreq(flux.shape[1])
    kernel = np.exp(-2 * (np.pi * frequency * sigma) ** 2)
    return np.asarray(np.fft.irfft(np.fft.rfft(flux, axis=1) * kernel, flux.shape[1], axis=1))


def with_sky(flux: Floats, rng: np.random.Generator) -> Floats:
    """Spectra with what sky lines leave where they are badly taken out."""
    flux = flux.copy()
    for row in flux:
        pixels = rng.choice(len(row), 60, replace=False)
        row[pixels] += rng.choice([-1, 1], 60) * rng.lognormal(-2.2, 0.7, 60)
    return flux


def odd_spectra(stars: Floats, giants_: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Spectra that no training had, ``(n, 7214)`` each."""
    wavelength = numbers("grid")["wavelength"]
    lines = [0.12 * np.exp(-0.5 * ((wavelength - line) / 25) ** 2) for line in BRACKETT]
    return {
        "sky residuals": with_sky(stars, rng),
        "shifted by 3 pixels": np.roll(stars, 3, axis=1),
        "shifted by 10 pixels": np.roll(stars, 10, axis=1),
        "lines 1.8 times as wide (giants)": smoothed(giants_, 2.0),
        "lines 1.8 times as wide (all)": smoothed(stars, 2.0),
        "hot star": np.tile(1 - sum(lines), (len(giants_), 1)),
        "galaxy": smoothed(np.roll(giants_, 500, axis=1), 20),
        "noise": np.abs(rng.standard_normal(giants_.shape)) + 0.01,
        "constant": np.ones(giants_.shape),
    }


def auc(ordinary: Floats, odd: Floats) -> float:
    """The chance that an odd spectrum has the smaller share; equal ones count half."""
    below = (odd[:, None] < ordinary).mean()
    return float(below + 0.5 * (odd[:, None] == ordinary).mean())


def main() -> None:
    """Make spectra, label them, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=weights_path, default=STARTER.weights)
    parser.add_argument("--corrections", type=Path)
    parser.add_argument("--stars", type=int, default=300)
    parser.add_argument("--models", type=Model, nargs="+", default=list(Model))
    arguments = parser.parse_args()
    rng = np.random.default_rng(5)
    parameters = {model: drawn(model, arguments.stars, rng) for model in arguments.models}
    flux = {
        model: np.array([rest_spectrum(model, row) for row in rows])
        for model, rows in parameters.items()
    }
    head = "".join(f"{name:>9}{'scatter':>8}{'in 1s':>6}" for name in ("Teff", "log g", "[Fe/H]"))
    print(f"{'model':10} {'S/N':>5}{head}{'[Mg/Fe]':>9}{'scatter':>8}")
    ordinary = {}
    for snr in SNR:
        found = {model: labelled(flux[model], snr, rng, arguments) for model in flux}
        for model, table in found.items():
            print_labels(model, snr, table, parameters[model])
        ordinary[snr] = np.concatenate([np.asarray(t["p_training"]) for t in found.values()])
    if np.isnan(ordinary[SNR[0]]).all():
        return
    print_odd(flux, ordinary, rng, arguments)


def print_odd(
    flux: dict[Model, Floats],
    ordinary: dict[float, Floats],
    rng: np.random.Generator,
    arguments: argparse.Namespace,
) -> None:
    """AUC and share flagged of odd spectra, by S/N."""
    giants_ = flux[Model.GIANTS][: arguments.stars // 3]
    stars = np.concatenate([giants_, flux[Model.DWARFS][: arguments.stars // 3]])
    print(f"\n{'AUC, share flagged':34}" + "".join(f"S/N {snr:<14.0f}" for snr in SNR))
    rows: dict[str, list[str]] = {}
    for snr in SNR:
        shares = ordinary[snr]
        alarms = np.mean(shares < LEAST_P_TRAINING)
        rows.setdefault("(ordinary)", []).append(f"      {alarms:5.3f}       ")
        for name, odd in odd_spectra(stars, giants_, rng).items():
            table = labelled(odd, snr, rng, arguments)
            told = np.asarray(table["p_training"])
            flagged = np.mean(table["flag_unlike_training"])
            rows.setdefault(name, []).append(f"{auc(shares, told):5.3f} {flagged:5.2f}       ")
    for name, cells in rows.items():
        print(f"{name:34}" + "".join(cells))


if __name__ == "__main__":
    main()

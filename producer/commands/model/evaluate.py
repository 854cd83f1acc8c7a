"""``astronn-stream model evaluate``: what weights are worth against known labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from producer.commands.model.spectra import (
    Cache,
    Computing,
    Labels,
    Paths,
    Report,
    cache_of,
    evaluated_by,
    left_out,
    read_spectra,
    tell_data,
    tell_files,
)
from producer.commands.screen import say, telling_interruption
from producer.sources.files import Wanted
from producer.sources.spectra_cache import match
from worker.atomic_file import check_folder, check_place
from worker.errors import UsageError
from worker.settings import get_settings
from worker.training.label_table import read_label_table
from worker.training.provenance import command_line, extent, known_part

if TYPE_CHECKING:
    from worker.comparison.evaluation import Evaluated
    from worker.reports.comparison import Account


def evaluate(
    weights: Annotated[Path, typer.Argument(metavar="W", help="A checkpoint.")],
    paths: Paths,
    labels: Labels,
    out: Annotated[
        Path, typer.Option("--out", metavar="OUT.json", help="The noise model to write.")
    ] = Path("corrections.json"),
    kind: Annotated[
        Wanted, typer.Option("--kind", help="Evaluate coadds, visits, or both.")
    ] = "both",
    device: Computing = "auto",
    cache: Cache = None,
    report: Report = None,
) -> None:
    """Compare the labels that weights give with known ones, and fit a noise model.

    Writes the noise model for `--corrections`, fitted to half of the stars, and a report with
    pictures that tests it on the other half. Take stars that the weights were not trained on.
    The table may lack labels; their uncertainties stay as they are. The normalised spectra stay
    beside OUT.json (OUT.spectra.npy and .json); delete them when you need them no more.
    """
    from worker.comparison.noise import fit_noise_model, write_noise_model
    from worker.comparison.statistics import label_numbers
    from worker.network.engines.choose import choose_device
    from worker.reports.comparison import write_report

    cache, report = _outputs(out, cache, report)
    table = read_label_table(labels)
    with telling_interruption():
        spectra = read_spectra(paths, cache, kind)
        matched = match(spectra, table, get_settings().data_root)
        data = matched.data
        tell_data(spectra, matched, "")
        every = np.arange(len(data))
        evaluated = evaluated_by(weights, data, every, choose_device(device))
        noise_model = fit_noise_model(evaluated)
        write_noise_model(out, noise_model)
        about: dict[str, str | int] = {
            "weights": weights.name,
            "labels": known_part(labels, data),
            "kind": kind,
            "evaluated": extent(data, every),
            **left_out(spectra, matched),
        }
        write_report(report, _account(about), evaluated, label_numbers(evaluated, noise_model))
    _tell_calibrating(evaluated)
    tell_files(out, report, cache)


def _outputs(out: Path, cache: Path | None, report: Path | None) -> tuple[Path, Path]:
    """The cache and the report, which lie beside the noise model if nothing else is said.

    Raises
    ------
    UsageError
        One of them cannot be written.
    """
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: it is written as a .json file.")
    check_place(out)
    report = report or out.with_name(f"{out.stem}_report")
    check_folder(report)
    return cache_of(out, cache), report


def _account(about: dict[str, str | int]) -> Account:
    from worker.comparison.evaluation import NOTES
    from worker.reports.comparison import Account

    return Account(
        command=command_line(sys.argv[1:]),
        settings={"mc_samples": get_settings().mc_samples},
        data=about,
        losses=[],
        best_epoch=0,
        notes=NOTES,
    )


def _tell_calibrating(evaluated: Evaluated) -> None:
    fitted, tested = int(evaluated.calibrating.sum()), int((~evaluated.calibrating).sum())
    say(f"The noise model is fitted to {fitted} spectra and tested on {tested}.")

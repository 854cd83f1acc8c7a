"""Spectra with known labels: the options and the steps that `train` and `evaluate` share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from producer.commands.screen import progress_bar, say
from producer.sources.files import Wanted
from producer.sources.spectra_cache import Matched, SpectraCache, cached_spectra
from worker.array_types import Floats
from worker.atomic_file import check_place
from worker.errors import UsageError
from worker.settings import Device, get_settings
from worker.training.data import Indices, TrainingSet
from worker.which_labels import learnt_labels

if TYPE_CHECKING:
    from worker.comparison.evaluation import Evaluated
    from worker.network.model import ApogeeBCNNCensored
    from worker.network.reference import Reference

Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH...", help="apStar files, and folders of them.")
]
Labels = Annotated[
    Path,
    typer.Option(
        "--labels",
        metavar="TABLE",
        help="Known labels: .fits, .ecsv, .csv, .vot or .parquet, by `path`, or by star (`obj`).",
    ),
]
Computing = Annotated[Device, typer.Option("--device", help="Where to compute.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FILE", help="Normalised spectra; OUT.spectra.npy."),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="The report; OUT_report.")
]


def cache_of(out: Path, cache: Path | None) -> Path:
    """Where the normalised spectra are kept: beside OUT if nothing else is said.

    Raises
    ------
    UsageError
        It would be no .npy file, or cannot be written.
    """
    if cache is not None and cache.suffix != ".npy":
        raise UsageError(f"--cache {cache}: the cache is a .npy file.")
    cache = cache or out.with_name(f"{out.name.removesuffix(out.suffix)}.spectra.npy")
    check_place(cache)
    return cache


def read_spectra(paths: list[Path], cache: Path, kind: Wanted) -> SpectraCache:
    """The normalised spectra, under the settings of the environment."""
    settings = get_settings()
    return cached_spectra(
        paths,
        cache,
        data_root=settings.data_root,
        wanted=kind,
        coadd_mask=settings.coadd_mask,
        processes=settings.loaders + 1,
        progress=progress_bar,
    )


def left_out(spectra: SpectraCache, matched: Matched) -> dict[str, str | int]:
    """What could not be used, and how much of it; and what became of the table's columns."""
    notes = {"of the table of labels": " ".join(matched.notes)} if matched.notes else {}
    return {
        "spectra that cannot be read": sum(spectra.failures.values()),
        "spectra without labels": matched.spectra_without_labels,
        "rows of the table without a spectrum": matched.rows_without_spectrum,
        **notes,
    }


def tell_read(spectra: SpectraCache) -> None:
    """Say how many spectra there are, and why others could not be read."""
    unread = sum(spectra.failures.values())
    kept = " (kept from before)" if spectra.reused else ""
    say(f"{len(spectra.spectra)} spectra{kept}, {unread} that cannot be read.")
    for reason, count in spectra.failures.most_common(10):
        say(f"  {count} left out: {reason}")


def tell_data(spectra: SpectraCache, matched: Matched, use: str) -> None:
    """Say what is there, what it serves for, and what is left out."""
    tell_read(spectra)
    for note in matched.notes:
        say(note)
    stars = len(set(matched.data.stars))
    say(
        f"{len(matched.data)} spectra of {stars} stars have labels{use}. "
        f"{matched.spectra_without_labels} spectra have none, {matched.rows_without_spectrum} "
        "rows of the table no spectrum."
    )


def evaluated_by(weights: Path, data: TrainingSet, chosen: Indices, device: str) -> Evaluated:
    """Labels of some spectra by the weights of a file, beside those that are known."""
    from worker.comparison.evaluation import evaluate
    from worker.network.checkpoint import read_checkpoint, read_not_learnt
    from worker.network.engines.choose import open_engine

    engine = open_engine(
        read_checkpoint(weights), mc_samples=get_settings().mc_samples, seed=0, device=device
    )
    with progress_bar("Evaluating", len(chosen)) as finished:
        return evaluate(engine, data, chosen, finished, read_not_learnt(weights))


def reference_by(
    model: ApogeeBCNNCensored,
    not_learnt: Collection[str],
    flux: NDArray[np.float32],
    rows: Indices,
    snr: Floats,
    keys: Sequence[str],
    device: str,
) -> Reference:
    """What some rows of flux are like, with the network's answers to them.

    Raises
    ------
    UsageError
        Too few have a known S/N; ``snr`` and ``keys`` are those of the rows.
    """
    from worker.network.engines.choose import open_engine
    from worker.training.reference import answered, fit_reference, reference_spectra

    chosen = reference_spectra(snr)
    engine = open_engine(model, mc_samples=get_settings().mc_samples, seed=0, device=device)
    learnt = learnt_labels(not_learnt).astype(np.float64)
    with progress_bar("Comparing", len(chosen)) as finished:
        names = [keys[number] for number in chosen]
        return fit_reference(
            answered(engine, flux, rows[chosen], snr[chosen], names, learnt, finished)
        )


def tell_files(corrections: Path, report: Path, cache: Path) -> None:
    """Say what the files of a training or an evaluation are for."""
    say(f"{corrections}: the noise model, for --corrections.")
    say(f"{report / 'report.md'}: tables and pictures.")
    say(f"{cache} is kept for another time; delete it when it is not needed.")

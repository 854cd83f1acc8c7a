"""``astronn-stream model train``: spectra and a table of labels to weights of one's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from producer.commands.screen import console, progress_bar, progress_console, telling_interruption
from producer.sources.spectra_cache import Matched, SpectraCache, cached_spectra, match
from worker.errors import UsageError
from worker.settings import get_settings
from worker.training.data import Indices, TrainingSet, split_by_star
from worker.training.label_table import read_label_table
from worker.training.provenance import Job, command_line, counts, metadata, summary

if TYPE_CHECKING:
    from worker.training.evaluation import Evaluated
    from worker.training.state import Losses
    from worker.training.statistics import Numbers
    from worker.training.trainer import Progress as Step
    from worker.training.trainer import Trained, TrainingSettings


class Kind(StrEnum):
    """Which spectra of a file are trained on."""

    COADD = "coadd"
    VISIT = "visit"
    BOTH = "both"


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """The type to compute in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Outputs:
    """The files of a training, all named after its weights."""

    weights: Path
    cache: Path
    state: Path
    corrections: Path
    report: Path

    @classmethod
    def of(cls, out: Path, cache: Path | None, report: Path | None) -> Outputs:
        """Where they lie if nothing else is said.

        Raises
        ------
        UsageError
            The weights cannot be written there.
        """
        if out.suffix != ".pt":
            raise UsageError(f"--out {out}: weights are written as a .pt file.")
        if not out.parent.is_dir():
            raise UsageError(f"--out {out}: there is no such folder.")
        if cache is not None and cache.suffix != ".npy":
            raise UsageError(f"--cache {cache}: the cache is a .npy file.")
        return cls(
            weights=out,
            cache=cache or out.with_name(f"{out.name.removesuffix('.pt')}.spectra.npy"),
            state=out.with_suffix(".training.pt"),
            corrections=out.with_suffix(".corrections.json"),
            report=report or out.with_name(f"{out.stem}_report"),
        )


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
Out = Annotated[Path, typer.Option("--out", metavar="OUT.pt", help="The weights to write.")]
KindOption = Annotated[Kind, typer.Option("--kind", help="Train on coadds, visits, or both.")]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Most epochs.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=2, help="Spectra in a training step.")]
LearningRate = Annotated[
    float, typer.Option("--learning-rate", min=0, help="The highest learning rate.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of all that is random.")]
Validation = Annotated[
    float,
    typer.Option(
        "--validation", min=0.001, max=0.9, help="Fraction of the stars that is kept aside."
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        min=1,
        help="Training ends after so many epochs without a lower validation loss.",
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute.")]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="`auto`: bfloat16 where that is fast.")
]
Half = Annotated[bool, typer.Option("--half", help="Write the weights as float16.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FILE", help="Normalised spectra; OUT.spectra.npy."),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="The report; OUT_report.")
]
Description = Annotated[
    str,
    typer.Option(
        "--description", metavar="TEXT", help="What the weights are trained on, in your words."
    ),
]
Purpose = Annotated[
    str,
    typer.Option(
        "--purpose", metavar="TEXT", help="What the weights are meant for, in your words."
    ),
]


def train(
    paths: Paths,
    labels: Labels,
    out: Out,
    kind: KindOption = Kind.BOTH,
    epochs: Epochs = 30,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 2e-3,
    seed: Seed = 0,
    validation: Validation = 0.1,
    patience: Patience = 10,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    half: Half = False,
    cache: Cache = None,
    report: Report = None,
    description: Description = "",
    purpose: Purpose = "",
) -> None:
    """Train a network on spectra whose labels are known.

    Writes the weights, a noise model for `--corrections`, and a report with pictures, from
    stars that were kept aside. After an interruption the same command goes on where it
    stopped, at the last whole epoch. The normalised spectra stay beside the weights
    (OUT.spectra.npy and .json) for another training; delete them when you need them no more.
    """
    _let_threads_sleep()
    outputs = Outputs.of(out, cache, report)
    table = read_label_table(labels)
    with telling_interruption():
        spectra = read_spectra(paths, outputs.cache, kind)
        matched = match(spectra, table, get_settings().data_root)
        split = split_by_star(matched.data.stars, validation, seed)
        use = f": {len(split[0])} to train on, {len(split[1])} to validate with"
        tell_data(spectra, matched, use)
        settings = _settings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            validation=validation,
            patience=patience,
            device=device,
            precision=precision,
        )
        job = Job(
            command=command_line(sys.argv[1:]),
            settings=settings,
            kind=kind.value,
            half=half,
            label_file=labels,
            description=description,
            purpose=purpose,
            data=matched.data,
            split=split,
            left_out=left_out(spectra, matched),
        )
        _finish(job, _train(job, outputs.state), outputs)


def _let_threads_sleep() -> None:
    """Have torch's threads sleep while they wait for each other, unless the user wants otherwise.

    Where a core has something else to do, threads that wait awake make a step ten times as
    long; where none has, a third shorter. OpenMP reads this when torch is loaded, later.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def left_out(spectra: SpectraCache, matched: Matched) -> dict[str, int]:
    """What could not be used, and how much of it."""
    return {
        "spectra that cannot be read": sum(spectra.failures.values()),
        "spectra without labels": matched.spectra_without_labels,
        "rows of the table without a spectrum": matched.rows_without_spectrum,
    }


def _settings(*, device: Device, precision: Precision, **values: float) -> TrainingSettings:
    from worker.network.engines.choose import choose_device
    from worker.training.trainer import TrainingSettings, choose_precision

    chosen = choose_device(device.value)
    return TrainingSettings(
        device=chosen,
        precision=choose_precision(precision.value, chosen),
        **values,  # type: ignore[arg-type]
    )


def read_spectra(paths: list[Path], cache: Path, kind: Kind) -> SpectraCache:
    """The normalised spectra, under the settings of the environment."""
    settings = get_settings()
    return cached_spectra(
        paths,
        cache,
        data_root=settings.data_root,
        wanted=kind.value,
        coadd_mask=settings.coadd_mask,
        processes=settings.loaders + 1,
        progress=progress_bar,
    )


def tell_data(spectra: SpectraCache, matched: Matched, use: str) -> None:
    """Say what is there, what it serves for, and what is left out."""
    unread = sum(spectra.failures.values())
    kept = " (kept from before)" if spectra.reused else ""
    say(f"{len(spectra.spectra)} spectra{kept}, {unread} that cannot be read.")
    for reason, count in spectra.failures.most_common(10):
        say(f"  {count} left out: {reason}")
    stars = len(set(matched.data.stars))
    say(
        f"{len(matched.data)} spectra of {stars} stars have labels{use}. "
        f"{matched.spectra_without_labels} spectra have none, {matched.rows_without_spectrum} "
        "rows of the table no spectrum."
    )


def say(text: str) -> None:
    """Print a line that may hold anything."""
    console.print(text, soft_wrap=True, markup=False)


def _train(job: Job, state: Path) -> Trained:
    from worker.training.trainer import train as train_network

    with _training_bar(job.settings.epochs) as (on_step, on_epoch):
        return train_network(job.data, job.split, job.settings, state, on_step, on_epoch)


def _finish(job: Job, trained: Trained, outputs: Outputs) -> None:
    """Write the weights, then what needs an evaluation of them; the state goes last."""
    from worker.network.checkpoint import write_checkpoint
    from worker.reports.training import Account, write_report
    from worker.training.evaluation import MOST_EVALUATED, NOTES
    from worker.training.noise import fit_noise_model, write_noise_model

    content = metadata(job, trained)
    write_checkpoint(outputs.weights, trained.model, content, half=job.half)
    evaluated = _evaluate(job, outputs.weights)
    noise_model = fit_noise_model(evaluated)
    write_noise_model(outputs.corrections, noise_model)
    account = Account(
        command=job.command,
        settings=content["settings"],
        data=counts(job),
        losses=trained.losses,
        best_epoch=trained.best_epoch,
        notes=(*NOTES, f"At most {MOST_EVALUATED} are evaluated."),
    )
    numbers = write_report(outputs.report, account, evaluated, noise_model)
    content["validation"] |= summary(numbers)
    write_checkpoint(outputs.weights, trained.model, content, half=job.half)
    outputs.state.unlink(missing_ok=True)
    _tell_outputs(trained, outputs, numbers)


def _evaluate(job: Job, weights: Path) -> Evaluated:
    """What was written is evaluated, float16 or not."""
    from worker.training.evaluation import sample

    return evaluated_by(weights, job.data, sample(job.split[1]), job.settings.device)


def evaluated_by(weights: Path, data: TrainingSet, chosen: Indices, device: str) -> Evaluated:
    """Labels of some spectra by the weights of a file, beside those that are known."""
    from worker.network.checkpoint import read_checkpoint
    from worker.network.engines.choose import open_engine
    from worker.training.evaluation import evaluate

    engine = open_engine(
        read_checkpoint(weights), mc_samples=get_settings().mc_samples, seed=0, device=device
    )
    with progress_bar("Evaluating", len(chosen)) as finished:
        return evaluate(engine, data, chosen, finished)


def _tell_outputs(trained: Trained, outputs: Outputs, numbers: Numbers) -> None:
    say(f"{outputs.weights}: the best of {len(trained.losses)} epochs, {trained.best_epoch}.")
    scatter = {name: numbers[name]["by_snr"]["all"]["scatter"] for name in numbers}
    if None not in scatter.values():
        say(
            f"Scatter on held-out stars: teff {scatter['teff']:.0f} K, logg "
            f"{scatter['logg']:.3f}, fe_h {scatter['fe_h']:.3f} dex."
        )
    tell_files(outputs.corrections, outputs.report, outputs.cache)


def tell_files(corrections: Path, report: Path, cache: Path) -> None:
    """Say what the files of a training or an evaluation are for."""
    say(f"{corrections}: the noise model, for --corrections.")
    say(f"{report / 'report.md'}: tables and pictures.")
    say(f"{cache} is kept for another time; delete it when it is not needed.")


@contextmanager
def _training_bar(
    epochs: int,
) -> Iterator[tuple[Callable[[Step], None], Callable[[Losses], None]]]:
    """A bar of the whole training; without a terminal, one line for each epoch."""
    watched = progress_console.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=progress_console, transient=True, disable=not watched) as bar:
        task = bar.add_task("Training", total=None)
        last = ""

        def on_step(step: Step) -> None:
            bar.update(
                task,
                total=epochs * step.steps,
                completed=step.epoch * step.steps + step.step,
                description=f"Epoch {step.epoch + 1}/{epochs} loss {step.loss:.3f}{last}",
            )

        def on_epoch(losses: Losses) -> None:
            nonlocal last
            last = f" validation {losses[-1]['validation']:.3f}"
            if not watched:
                progress_console.print(
                    f"Epoch {len(losses)}/{epochs}: loss {losses[-1]['training']:.4f}{last}"
                )

        yield on_step, on_epoch

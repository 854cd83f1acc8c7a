"""``astronn-stream model train``: spectra and a table of labels to weights of one's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
    reference_by,
    tell_data,
    tell_files,
)
from producer.commands.screen import progress_console, say, telling_interruption
from producer.sources.files import Wanted
from producer.sources.spectra_cache import Matched, match
from worker.atomic_file import check_folder, check_place
from worker.errors import UsageError
from worker.labels import told_not_learnt
from worker.settings import get_settings
from worker.training.data import split_by_star
from worker.training.label_table import read_label_table
from worker.training.provenance import (
    TrainingRun,
    about_reference,
    command_line,
    counts,
    metadata,
    summary,
    unknown_labels,
)

if TYPE_CHECKING:
    from worker.comparison.evaluation import Evaluated
    from worker.comparison.statistics import Numbers
    from worker.network.reference import Reference
    from worker.training.state import Losses
    from worker.training.trainer import Progress as Step
    from worker.training.trainer import Trained, TrainingSettings


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
            One of them cannot be written.
        """
        if out.suffix != ".pt":
            raise UsageError(f"--out {out}: weights are written as a .pt file.")
        check_place(out)
        report = report or out.with_name(f"{out.stem}_report")
        check_folder(report)
        return cls(
            weights=out,
            cache=cache_of(out, cache),
            state=out.with_suffix(".training.pt"),
            corrections=out.with_suffix(".corrections.json"),
            report=report,
        )


Out = Annotated[Path, typer.Option("--out", metavar="OUT.pt", help="The weights to write.")]
Kind = Annotated[Wanted, typer.Option("--kind", help="Train on coadds, visits, or both.")]
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
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--precision", help="`auto`: bfloat16 where that is fast."),
]
Half = Annotated[bool, typer.Option("--half", help="Write the weights as float16.")]
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


@dataclass(frozen=True)
class Options:
    """What a training is asked for, as the options of the command say it."""

    paths: list[Path]
    labels: Path
    kind: Wanted
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    validation: float
    patience: int
    device: str
    precision: str
    half: bool
    description: str
    purpose: str

    def settings(self) -> TrainingSettings:
        """How to train, with the device and the precision that this machine has."""
        from worker.network.engines.choose import choose_device
        from worker.training.trainer import TrainingSettings, choose_precision

        device = choose_device(self.device)
        return TrainingSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            validation=self.validation,
            patience=self.patience,
            device=device,
            precision=choose_precision(self.precision, device),
        )


def train(
    paths: Paths,
    labels: Labels,
    out: Out,
    kind: Kind = "both",
    epochs: Epochs = 30,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 2e-3,
    seed: Seed = 0,
    validation: Validation = 0.1,
    patience: Patience = 10,
    device: Computing = "auto",
    precision: Precision = "auto",
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
    options = Options(
        paths=paths,
        labels=labels,
        kind=kind,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        validation=validation,
        patience=patience,
        device=device,
        precision=precision,
        half=half,
        description=description,
        purpose=purpose,
    )
    _carry_out(options, Outputs.of(out, cache, report))


def _carry_out(options: Options, outputs: Outputs) -> None:
    """Read, train, evaluate and report."""
    _let_threads_sleep()
    table = read_label_table(options.labels)
    with telling_interruption():
        spectra = read_spectra(options.paths, outputs.cache, options.kind)
        matched = match(spectra, table, get_settings().data_root)
        run = _run(options, matched, left_out(spectra, matched))
        fitted, held_out = map(len, run.split)
        tell_data(spectra, matched, f": {fitted} to train on, {held_out} to validate with")
        if unknown := unknown_labels(run):
            say(f"{told_not_learnt(unknown)} No spectrum to train on has them.")
        _finish(run, _train(run, outputs.state), outputs)


def _let_threads_sleep() -> None:
    """Have torch's threads sleep while they wait for each other, unless the user wants otherwise.

    Where a core has something else to do, threads that wait awake make a step ten times as
    long; where none has, a third shorter. OpenMP reads this when torch is loaded, later.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _run(options: Options, matched: Matched, unused: dict[str, str | int]) -> TrainingRun:
    return TrainingRun(
        command=command_line(sys.argv[1:]),
        settings=options.settings(),
        kind=options.kind,
        half=options.half,
        label_file=options.labels,
        description=options.description,
        purpose=options.purpose,
        data=matched.data,
        split=split_by_star(matched.data.stars, options.validation, options.seed),
        left_out=unused,
    )


def _train(run: TrainingRun, state: Path) -> Trained:
    from worker.training.trainer import train as train_network

    with _training_bar(run.settings.epochs) as (on_step, on_epoch):
        return train_network(run.data, run.split, run.settings, state, on_step, on_epoch)


def _finish(run: TrainingRun, trained: Trained, outputs: Outputs) -> None:
    """Write the weights, then what needs an evaluation of them; the state goes last."""
    from worker.comparison.evaluation import MOST_EVALUATED, NOTES
    from worker.comparison.noise import fit_noise_model, write_noise_model
    from worker.comparison.statistics import label_numbers
    from worker.network.checkpoint import write_checkpoint
    from worker.reports.comparison import Account, write_report

    content = metadata(run, trained)
    write_checkpoint(outputs.weights, trained.model, content, half=run.half)
    evaluated = _evaluate(run, outputs.weights)
    noise_model = fit_noise_model(evaluated)
    write_noise_model(outputs.corrections, noise_model)
    account = Account(
        command=run.command,
        settings=content["settings"],
        data=counts(run),
        losses=trained.losses,
        best_epoch=trained.best_epoch,
        notes=(*NOTES, f"At most {MOST_EVALUATED} are evaluated."),
        title="Training report",
    )
    numbers = label_numbers(evaluated, noise_model)
    write_report(outputs.report, account, evaluated, numbers)
    content["validation"] |= summary(numbers)
    reference = _reference(run, outputs.weights)
    if reference is not None:
        content |= about_reference(reference, run.kind, run.command)
    write_checkpoint(outputs.weights, trained.model, content, half=run.half, reference=reference)
    outputs.state.unlink(missing_ok=True)
    _tell_outputs(trained, outputs, numbers)


def _reference(run: TrainingRun, weights: Path) -> Reference | None:
    """What the spectra that were trained on are like; None where they are too few to tell."""
    from worker.network.checkpoint import read_checkpoint, read_not_learnt

    data, trained_on = run.data, run.split[0]
    try:
        return reference_by(
            read_checkpoint(weights),
            read_not_learnt(weights),
            data.flux,
            data.rows[trained_on],
            data.snr[trained_on],
            [data.keys[index] for index in trained_on],
            run.settings.device,
        )
    except UsageError as error:
        say(f"The weights will not tell spectra that are unlike these. {error}")
        return None


def _evaluate(run: TrainingRun, weights: Path) -> Evaluated:
    """What was written is evaluated, float16 or not."""
    from worker.comparison.evaluation import sample

    return evaluated_by(weights, run.data, sample(run.split[1]), run.settings.device)


def _tell_outputs(trained: Trained, outputs: Outputs, numbers: Numbers) -> None:
    say(f"{outputs.weights}: the best of {len(trained.losses)} epochs, {trained.best_epoch}.")
    scatter = {name: numbers[name]["by_snr"]["all"]["scatter"] for name in numbers}
    forms = {"teff": "{:.0f} K", "logg": "{:.3f}", "fe_h": "{:.3f} dex"}
    known = [name for name in forms if scatter.get(name) is not None]
    if known:
        told = ", ".join(f"{name} {forms[name].format(scatter[name])}" for name in known)
        say(f"Scatter on held-out stars: {told}.")
    tell_files(outputs.corrections, outputs.report, outputs.cache)


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
                say(
                    f"Epoch {len(losses)}/{epochs}: loss {losses[-1]['training']:.4f}{last}",
                    to=progress_console,
                )

        yield on_step, on_epoch

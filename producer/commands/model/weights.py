"""The commands ``astronn-stream model``: weights are converted, described and checked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from producer.commands.options import DeviceOption
from producer.commands.screen import console, say
from worker.atomic_file import check_place
from worker.errors import UsageError
from worker.network.checkpoint import write_checkpoint
from worker.settings import get_settings
from worker.starter.bundled import bundled_with, weights_path
from worker.text import printable

if TYPE_CHECKING:
    from worker.network.weights.description import Description
    from worker.network.weights.verification import Check

_MARKS = {True: ("ok    ", "green"), False: ("FAILED", "bold red"), None: ("skip  ", "yellow")}
Weights = Annotated[
    Path,
    typer.Argument(
        metavar="W",
        parser=weights_path,
        help="A checkpoint, `starter`, `demonstration`, or an astroNN model folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def convert(
    folder: Annotated[
        Path,
        typer.Argument(help="An astroNN model folder, such as the public astroNN_0512_run002."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.pt", help="The checkpoint to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.pt where it exists.")] = False,
) -> None:
    """Turn an astroNN model folder (Keras) into a checkpoint that `--model` takes.

    Needs neither TensorFlow nor Keras. The checkpoint has the layout of Astra's PyTorch port, so
    that others can read it too. A network other than ApogeeBCNNCensored is refused.
    """
    _check_out(out, force=force)
    from worker.network.keras.convert import convert as convert_folder
    from worker.network.weights.description import describe
    from worker.network.weights.read import read_weights

    converted = convert_folder(folder)
    write_checkpoint(out, converted.model, converted.metadata)
    _print_summary(describe(read_weights(out)))
    say(f"Wrote {out}. Check it with: astronn-stream model verify {out}")


def info(
    weights: Weights,
    as_json: AsJson = False,
) -> None:
    """Show what weights are: network, labels, normalisation, provenance."""
    from worker.network.weights.description import describe
    from worker.network.weights.read import read_weights

    description = describe(read_weights(weights))
    if as_json:
        typer.echo(json.dumps(asdict(description), indent=2))
        return
    _print_summary(description)
    _print_labels(description)
    _print_elements(description)


def verify(
    weights: Weights,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Check that weights work: load them, run them, compare them with the published ones.

    Exit code 1 where a check fails.
    """
    from worker.network.engines.choose import choose_device
    from worker.network.weights.verification import verify as checks_of

    settings = get_settings()
    chosen = choose_device(device or settings.device)
    checks = []
    for check in checks_of(
        weights, mc_samples=settings.mc_samples, seed=settings.seed, device=chosen
    ):
        checks.append(check)
        if not as_json:
            _print_check(check)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)


def _check_out(out: Path, *, force: bool) -> None:
    check_place(out)
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; --force replaces it.")


def _print_check(check: Check) -> None:
    mark = Text(*_MARKS[check.passed])
    console.print(Text.assemble(mark, f" {check.name}: {printable(check.found)}"), soft_wrap=True)


def _print_summary(description: Description) -> None:
    _print_rows(_summary(description))
    say("")
    say("Provenance, as the file tells it:" if description.metadata else "No provenance.")
    # Apart from the rest: whoever made the file may have named an entry as he liked.
    _print_rows(
        {
            name.replace("_", " "): value if isinstance(value, str) else json.dumps(value)
            for name, value in description.metadata.items()
        }
    )
    for label in description.labels:
        if label.warning is not None:
            text = f"{label.name}: mean {label.mean:.4g}, std {label.std:.4g}: {label.warning}"
            say(f"Warning: {text}.", style="yellow")


def _summary(description: Description) -> dict[str, str]:
    """What is said about the weights as a whole, by name."""
    labels = [label.name for label in description.labels if label.mean is not None]
    unknown = description.not_learnt
    sites = ", ".join(f"{name} {units}" for name, units in description.dropout_sites.items())
    rows = {
        "file": f"{description.file}, {description.bytes:,} bytes, {description.stored_as}",
        "sha256": description.sha256,
        "network": f"{description.architecture}, {description.parameters:,} parameters",
        "full-spectrum branch": f"dense {description.dense[0]}, {description.dense[1]}",
        "element branches": str(len(description.elements)),
        "dropout": f"rate {description.dropout_rate}, units: {sites}",
        "labels": f"{len(labels)}: {', '.join(labels)}",
        "not learnt": f"{len(unknown)}: {', '.join(unknown)}" if unknown else "none of them",
        "mean spectrum": "{:.4f} to {:.4f}".format(*description.input_mean),
    }
    rows["reference"] = (
        "none: p_training is not known; `model reference` makes one"
        if description.reference is None
        else f"{description.reference:,} spectra tell which others are unlike those of the training"
    )
    if description.published is not None:
        rows["published"] = f"astroNN's {description.published} network, by its git blob below"
    if bundled := bundled_with(description.sha256):
        rows["known as"] = bundled.rows_name
    return rows


def _print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows), default=0) + 2
    for name, value in rows.items():
        # No table: a digest is there to be copied whole.
        say(f"{name:{width}}{value}")


def _print_labels(description: Description) -> None:
    table = Table("label", "unit", title="Labels", title_justify="left")
    for heading in ("mean", "std"):
        table.add_column(heading, justify="right")
    for label in description.labels:
        style = None if label.warning is None else "yellow"
        scale = ["not learnt" if x is None else f"{x:.4f}" for x in (label.mean, label.std)]
        table.add_row(label.name, label.unit, *scale, style=style)
    console.print(table)


def _print_elements(description: Description) -> None:
    table = Table("label", title="Element branches", title_justify="left")
    for heading in ("window pixels", "dense 1", "dense 2"):
        table.add_column(heading, justify="right")
    for element in description.elements:
        table.add_row(element.label, str(element.pixels), *map(str, element.hidden))
    console.print(table)

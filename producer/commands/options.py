"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.errors import UsageError
from worker.identity import weights_sha256
from worker.queues import Lane
from worker.settings import Device, Settings, get_settings
from worker.starter.bundled import weights_path

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="apStar files, and folders that hold them."),
]

Tag = Annotated[
    str,
    typer.Option(
        "--tag", help="A name for this set of results; under another name all is computed anew."
    ),
]

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="FILE",
        parser=weights_path,
        help="Weights of the network: a PyTorch checkpoint, or `demonstration` for those of "
        "`demo`; without it the starter weights.",
    ),
]

Corrections = Annotated[
    Path | None,
    typer.Option(
        "--corrections",
        metavar="FILE",
        help="Noise model: .pkl of the peers, .json or .toml. Weights of the package have one.",
    ),
]

LaneOption = Annotated[
    Lane, typer.Option("--lane", help="`live` goes before `bulk` in every queue.")
]

DeviceOption = Annotated[
    Device | None, typer.Option("--device", help="Where to compute; ASTRONN_STREAM_DEVICE.")
]

ResultsTag = Annotated[str | None, typer.Option("--tag", help="Only results under this tag.")]

ResultsWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="W",
        help="Only labels from these weights: their name, or the beginning of their SHA-256.",
    ),
]

ResultsWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only these rows, by any column of the table: `snr > 100 and not flag_bad`.",
    ),
]

ResultsTable = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="Results as `export` writes them (.fits, .parquet, .csv, .ecsv, .vot); without it "
        "those in the database.",
    ),
]


def settings_with(model: Path | None = None, corrections: Path | None = None) -> Settings:
    """The settings of the environment with the command's options over them.

    Raises
    ------
    UsageError
        A file that an option names is not there, or is a noise model of other weights.
    FatalError
        The noise model cannot be used.
    """
    if model is not None and model.is_dir():
        raise UsageError(
            f"--model {model}: this is a folder; `astronn-stream model convert` makes weights of "
            "astroNN's."
        )
    for option, path in (("--model", model), ("--corrections", corrections)):
        if path is not None:
            check_file(option, path)
    settings = get_settings().changed(model=model, corrections=corrections)
    if corrections is not None:
        from worker.results.noise_model import check_fits, read_noise_model

        weights = weights_sha256(settings.weights_file)
        check_fits(read_noise_model(corrections), corrections, weights)
    return settings


def check_file(option: str, path: Path) -> None:
    """Make sure that an option's file is there; raises ``UsageError`` where it is not."""
    if not path.is_file():
        raise UsageError(f"{option} {path}: there is no such file.")


def configured_database() -> str:
    """The URL of the configured database; it has to be there already."""
    from worker.database.session import check_exists

    url = get_settings().database_url
    check_exists(url)
    return url

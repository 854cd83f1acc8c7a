"""``astronn-stream model reference``: tell weights which spectra they can be trusted with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from producer.commands.model.spectra import (
    Cache,
    Computing,
    Paths,
    cache_of,
    read_spectra,
    reference_by,
    tell_read,
)
from producer.commands.model.weights import Weights
from producer.commands.screen import say, telling_interruption
from producer.sources.files import Wanted
from worker.atomic_file import check_place
from worker.errors import UsageError
from worker.training.provenance import about_reference, command_line


def reference(
    weights: Weights,
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", metavar="NEW.pt", help="The weights to write.")],
    kind: Annotated[Wanted, typer.Option("--kind", help="Coadds, visits, or both.")] = "both",
    device: Computing = "auto",
    cache: Cache = None,
) -> None:
    """Let weights tell which spectra are unlike those that they can be trusted with.

    Give spectra as the weights were trained on, of every S/N: thousands, without the odd ones.
    Writes the same weights with what these spectra are like; rows that they make then have
    `p_training` and `flag_unlike_training`. NEW.pt has a SHA-256 of its own, so its rows stand
    beside those of the old file. The normalised spectra stay beside NEW.pt (NEW.spectra.npy and
    .json); delete them when you need them no more.
    """
    from worker.network.checkpoint import write_checkpoint
    from worker.network.engines.choose import choose_device
    from worker.network.weights.read import read_weights

    if out.suffix != ".pt":
        raise UsageError(f"--out {out}: weights are written as a .pt file.")
    check_place(out)
    cache = cache_of(out, cache)
    old = read_weights(weights)
    with telling_interruption():
        spectra = read_spectra(paths, cache, kind)
        tell_read(spectra)
        made = reference_by(
            old.model,
            old.not_learnt,
            spectra.flux,
            np.arange(len(spectra.spectra)),
            np.array([each.snr for each in spectra.spectra], dtype=np.float64),
            [each.mask_key for each in spectra.spectra],
            choose_device(device),
        )
        metadata = old.metadata | about_reference(made, kind, command_line(sys.argv[1:]))
        half = old.stored_as == "float16"
        write_checkpoint(out, old.model, metadata, half=half, reference=made)
    say(f"{out}: the weights of {weights.name}, and what {int(made.spectra[0])} spectra are like.")
    say(f"{cache} is kept for another time; delete it when it is not needed.")

"""Whether weights work: they are loaded and run on spectra that are at hand everywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import FatalError
from worker.labels import ELEMENT_POSITIONS, LABEL_NAMES, LABELS, told_not_learnt
from worker.network.checkpoint import Metadata
from worker.network.published import PUBLISHED, pretended_network, published_network
from worker.network.weights.read import Weights, read_weights
from worker.spectra.oracle import astronn_apogee
from worker.spectra.pixels import N_PIXELS
from worker.which_labels import learnt_labels, names_of

if TYPE_CHECKING:
    from worker.network.engines.engine import Engine
    from worker.network.model import ApogeeBCNNCensored


_LINES = 300
_BATCH = 8


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether it is as it should be, and what was found.

    ``passed`` is None where it could not be looked at.
    """

    name: str
    passed: bool | None
    found: str


def verify(path: Path, *, mc_samples: int, seed: int, device: str) -> Iterator[Check]:
    """Check weights, one thing after the other; the rest is not looked at if they do not load.

    Parameters
    ----------
    path
        A checkpoint or an astroNN folder.
    mc_samples, seed, device
        As the engine takes them.

    Raises
    ------
    UsageError
        There is nothing at ``path``.
    """
    from worker.network.engines.choose import open_engine

    try:
        weights = read_weights(path)
    except FatalError as error:
        yield Check("loads", False, str(error))
        return
    yield Check("loads", True, f"{type(weights.model).__name__}, every weight finite")
    yield _check_origin(weights.metadata, downloaded=path.is_dir())
    yield _check_windows(weights.model)
    if weights.not_learnt:
        yield Check("labels", True, told_not_learnt(weights.not_learnt))
    engine = open_engine(weights.model, mc_samples=mc_samples, seed=seed, device=device)
    learnt = learnt_labels(weights.not_learnt)
    spectra = {"simulated spectrum": simulated_spectrum(), "mean spectrum": _mean_spectrum(weights)}
    for name, flux in spectra.items():
        yield _check_deterministic(name, engine, flux, learnt)
        yield from _check_mc_dropout(name, engine, flux, learnt)
    yield _check_speed(engine)


def simulated_spectrum() -> NDArray[np.float32]:
    """A continuum-normalised spectrum ``(7514,)`` with 300 absorption lines, the same anywhere.

    Line k of 1 to 300 is a Gaussian in pixels, at 7514 times the fractional part of k times the
    golden ratio, 0.02 to 0.4 deep and 1.5 to 4 pixels wide by the fractional parts of
    k sqrt(2) and k sqrt(3). Depths multiply.
    """
    k = np.arange(1, _LINES + 1)[:, None]
    centre = N_PIXELS * (k * (1 + np.sqrt(5)) / 2 % 1)
    depth = 0.02 + 0.38 * (k * np.sqrt(2) % 1)
    width = 1.5 + 2.5 * (k * np.sqrt(3) % 1)
    lines = depth * np.exp(-0.5 * ((np.arange(N_PIXELS) - centre) / width) ** 2)
    flux: NDArray[np.float32] = np.prod(1 - lines, axis=0).astype(np.float32)
    return flux


def _mean_spectrum(weights: Weights) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = weights.model.input_mean.float().numpy()
    return mean


def _check_origin(metadata: Metadata, *, downloaded: bool) -> Check:
    """Published weights must be what they say; any others are as good.

    A checkpoint tells what it was converted from; only a folder can be compared itself.
    """
    name = "origin"
    if (pretended := pretended_network(metadata)) is not None:
        return Check(
            name,
            False,
            f"the folder bears the name of the published {pretended.release} network, "
            f"{pretended.folder}, but its model_weights.h5 is git blob "
            f"{metadata.get('model_weights_git_blob_sha1')}, not {pretended.git_blob_sha1}",
        )
    if (published := published_network(metadata)) is not None:
        found = f"the published {published.release} network, {published.folder}"
        blob = f"git blob {published.git_blob_sha1}"
        if downloaded:
            return Check(name, True, f"{found}: {blob}")
        return Check(name, True, f"converted from {found}, as the file tells: {blob}")
    releases = " and ".join(each.release for each in PUBLISHED)
    return Check(name, True, f"not one of the published networks ({releases})")


def _check_windows(model: ApogeeBCNNCensored) -> Check:
    """The pixels that each element's branch reads are held against astroNN's."""
    name = "windows"
    try:
        aspcap_mask = astronn_apogee().aspcap_mask
    except FatalError as error:
        return Check(name, None, str(error))
    differing = []
    for element, position in enumerate(ELEMENT_POSITIONS):
        theirs = np.flatnonzero(aspcap_mask(LABELS[position].element, dr=17))
        if not np.array_equal(model.window(element).numpy(), theirs):
            differing.append(LABEL_NAMES[position])
    if differing:
        return Check(name, False, f"not astroNN's ASPCAP windows for DR17: {', '.join(differing)}")
    return Check(name, True, "each element's pixels are those of astroNN's ASPCAP windows for DR17")


def _check_deterministic(
    name: str, engine: Engine, flux: NDArray[np.float32], learnt: NDArray[np.bool_]
) -> Check:
    import torch

    model = engine.model
    with torch.inference_mode():
        spectrum = torch.from_numpy(flux[None]).to(engine.device)
        labels, log_variances = model(model.normalise_input(spectrum))
        raw = (labels.double() * model.labels_std + model.labels_mean)[0].cpu().numpy()
    usable = ~learnt | np.isfinite(raw) & np.isfinite(log_variances[0].cpu().numpy())
    raw[~learnt] = np.nan
    return Check(f"{name}, no dropout", bool(usable.all()), _finding(usable, raw))


def _check_mc_dropout(
    name: str, engine: Engine, flux: NDArray[np.float32], learnt: NDArray[np.bool_]
) -> Iterator[Check]:
    runs = [_run(engine, flux[None], [name]) for _ in range(2)]
    (labels,), (e_labels,) = runs[0]
    usable = ~learnt | np.isfinite(labels) & np.isfinite(e_labels) & (e_labels > 0)
    labels = np.where(learnt, labels, np.nan)
    yield Check(
        f"{name}, {engine.mc_samples} passes",
        bool(usable.all()),
        _finding(usable, labels, e_labels),
    )
    same = all(one.tobytes() == other.tobytes() for one, other in zip(*runs, strict=True))
    yield Check(
        f"{name}, repeated",
        same,
        "two runs agree bit for bit" if same else "two runs with the same seed differ",
    )


def _finding(usable: NDArray[np.bool_], labels: Floats, e_labels: Floats | None = None) -> str:
    """The first labels that are learnt, or which cannot be used."""
    if not usable.all():
        names = ", ".join(names_of(~usable))
        return f"not finite, or without a positive uncertainty: {names}"
    shown = {"teff": 0, "logg": 2, "fe_h": 2}
    values = []
    for name, digits in shown.items():
        i = LABEL_NAMES.index(name)
        if np.isnan(labels[i]):
            continue
        error = "" if e_labels is None else f" ± {e_labels[i]:.{digits}f}"
        values.append(f"{name} {labels[i]:.{digits}f}{error}")
    return "finite: " + ", ".join(values) if values else "finite"


def _check_speed(engine: Engine) -> Check:
    """The time of a spectrum in a batch; the runs before have warmed up."""
    flux = np.tile(simulated_spectrum(), (_BATCH, 1))
    started = time.perf_counter()
    _run(engine, flux, [f"speed {i}" for i in range(_BATCH)])  # ends with results on the CPU
    milliseconds = 1000 * (time.perf_counter() - started) / _BATCH
    return Check(
        "speed",
        True,
        f"{milliseconds:.1f} ms per spectrum ({engine.mc_samples} passes, batch of {_BATCH}, "
        f"{engine.device})",
    )


def _run(engine: Engine, flux: NDArray[np.float32], mask_keys: list[str]) -> tuple[Floats, Floats]:
    with np.errstate(all="ignore"):  # what overflows is a finding, not a warning
        return engine(flux, mask_keys)

"""Loading: from references to spectra, to normalised flux that the network can read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError, SpectrumError
from worker.messages import Failure, SpectrumReference, failure_of
from worker.spectra.apstar import Spectrum, read_spectra
from worker.spectra.continuum import (
    blank_chips,
    divide,
    fit_continuum,
    in_continuum,
    lost_in_continuum,
    uncertainties,
)
from worker.spectra.pixels import N_PIXELS, cut_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """Normalised spectra, and the ones that are none.

    ``flux`` is ``(n, 7514)`` float32, one row for each of ``spectra``.
    """

    flux: NDArray[np.float32]
    spectra: tuple[SpectrumReference, ...]
    failures: tuple[Failure, ...]
    seconds: float


#: Stands around the reading of a file, given the first of its spectra that are wanted.
Guard = Callable[[SpectrumReference], AbstractContextManager[None]]


def _unguarded(spectrum: SpectrumReference) -> AbstractContextManager[None]:  # noqa: ARG001
    return nullcontext()


def load_spectra(
    spectra: Sequence[SpectrumReference],
    data_root: Path,
    coadd_mask: str,
    guard: Guard = _unguarded,
) -> Loaded:
    """Read and normalise spectra, each file opened once.

    A spectrum that cannot be read or carries no information becomes a failure with its reason;
    the others are not touched by it. ``guard`` may refuse a file with a ``SpectrumError``.
    """
    started = time.perf_counter()
    root = Path(os.path.realpath(data_root))  # once for all files
    good: list[SpectrumReference] = []
    flux: list[NDArray[np.float32]] = []
    failures: list[Failure] = []
    for path, group in groupby(spectra, key=lambda spectrum: spectrum.path):
        members = list(group)
        try:
            with guard(members[0]):
                names = [each.member for each in members]
                outcomes = _load_file(root, path, names, coadd_mask)
        except SpectrumError as error:
            outcomes = [error] * len(members)
        for spectrum, outcome in zip(members, outcomes, strict=True):
            if isinstance(outcome, SpectrumError):
                failures.append(failure_of(spectrum, str(outcome)))
            else:
                good.append(spectrum)
                flux.append(outcome)
    return Loaded(
        np.stack(flux) if flux else np.empty((0, N_PIXELS), dtype=np.float32),
        tuple(good),
        tuple(failures),
        time.perf_counter() - started,
    )


def resolve_inside(root: Path, path: str) -> Path:
    """The file that a path relative to the data root names, symbolic links followed.

    Parameters
    ----------
    root
        The data root, itself without symbolic links.

    Raises
    ------
    SpectrumError
        It lies outside the data root.
    """
    try:
        resolved = (root / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # loops of links, NUL bytes
        raise SpectrumError(f"{path!r} is not a usable path: {error}.") from error
    if not resolved.is_relative_to(root):
        raise SpectrumError(f"{path} lies outside the data root.")
    return resolved


def _load_file(
    root: Path, path: str, members: list[str], coadd_mask: str
) -> list[NDArray[np.float32] | SpectrumError]:
    try:
        rows = read_spectra(resolve_inside(root, path), members, coadd_mask=coadd_mask)
        read = [row for row in rows if isinstance(row, Spectrum)]
        normalised = iter(_normalise_rows(Path(path).name, read) if read else [])
    except SpectrumError as error:
        return [error] * len(members)
    except (FatalError, MemoryError):
        raise  # no fault of the file
    except Exception as error:
        logger.exception("action=load file=%s: unexpected error", path)
        return [SpectrumError(f"{Path(path).name} cannot be read ({error!r}).")] * len(members)
    return [next(normalised) if isinstance(row, Spectrum) else row for row in rows]


def _normalise_rows(
    name: str, spectra: list[Spectrum]
) -> list[NDArray[np.float32] | SpectrumError]:
    flux, error, mask = zip(*((each.flux, each.error, each.mask) for each in spectra), strict=True)
    fitted, e_fitted = in_continuum(flux), uncertainties(in_continuum(error))
    normalised = divide(cut_rows(flux), cut_rows(mask), fit_continuum(fitted, e_fitted))
    lost, blank = lost_in_continuum(fitted, e_fitted), blank_chips(normalised)
    return [
        _outcome(name, row, *chips)
        for row, *chips in zip(normalised.astype(np.float32), lost, blank, strict=True)
    ]


def _outcome(
    name: str, row: NDArray[np.float32], lost: tuple[str, ...], blank: tuple[str, ...]
) -> NDArray[np.float32] | SpectrumError:
    if lost:
        return SpectrumError(
            f"A spectrum of {name} has no usable flux in the continuum of {_chips(lost)}."
        )
    if blank:
        return SpectrumError(f"A spectrum of {name} has every pixel masked in {_chips(blank)}.")
    return row


def _chips(names: tuple[str, ...]) -> str:
    return f"the {' and '.join(names)} chip{'s' if len(names) > 1 else ''}"

"""Loading: from files to normalised flux that the network can read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from worker.errors import SpectrumError
from worker.file_names import name_on_disk
from worker.identity import Located
from worker.spectra.formats import read_spectra
from worker.spectra.formats.format import SpectrumArrays, refusing
from worker.spectra.network_input import network_input
from worker.spectra.pixels import N_PIXELS

S = TypeVar("S", bound=Located)
Row = NDArray[np.float32]


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """Normalised spectra, and the ones that are none.

    ``flux`` is ``(n, 7514)`` float32, one row for each of ``spectra``. Each of ``failures`` is a
    spectrum with the sentence that says why it has no flux.
    """

    flux: NDArray[np.float32]
    spectra: tuple[S, ...]
    failures: tuple[tuple[S, str], ...]
    seconds: float


def _unguarded(_: Located) -> AbstractContextManager[None]:
    return nullcontext()


def load_spectra(
    spectra: Sequence[S],
    data_root: Path,
    coadd_mask: str = "and",
    guard: Callable[[S], AbstractContextManager[None]] = _unguarded,
) -> Loaded[S]:
    """Read and normalise spectra, each file opened once.

    Parameters
    ----------
    spectra
        Those of one file stand side by side.
    data_root
        The folder that they lie in; nothing outside it is read.
    coadd_mask
        See :func:`worker.spectra.formats.apstar.read_spectra`.
    guard
        Stands around the reading of a file, given the first of its spectra that are wanted. It
        may refuse the file with a ``SpectrumError``.

    Returns
    -------
    Loaded
        A spectrum that cannot be read or carries no information is a failure with its reason;
        the others are not touched by it.
    """
    started = time.perf_counter()
    root = Path(os.path.realpath(data_root))  # once for all files
    rows: list[Row | SpectrumError] = []
    for path, group in groupby(spectra, key=lambda spectrum: spectrum.path):
        members = list(group)
        try:
            with guard(members[0]):
                rows += _load_file(root, path, [each.member for each in members], coadd_mask)
        except SpectrumError as error:
            rows += [error] * len(members)
    pairs = list(zip(spectra, rows, strict=True))
    flux = [row for row in rows if not isinstance(row, SpectrumError)]
    return Loaded(
        np.stack(flux) if flux else np.empty((0, N_PIXELS), dtype=np.float32),
        tuple(each for each, row in pairs if not isinstance(row, SpectrumError)),
        tuple((each, str(row)) for each, row in pairs if isinstance(row, SpectrumError)),
        time.perf_counter() - started,
    )


def resolve_inside(root: Path, path: str) -> Path:
    """The file that a path relative to the data root names, symbolic links followed.

    Parameters
    ----------
    root
        The data root, itself without symbolic links.
    path
        As :func:`worker.file_names.name_as_text` gives it.

    Raises
    ------
    SpectrumError
        It lies outside the data root.
    """
    try:
        resolved = (root / name_on_disk(path)).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # loops of links, NUL bytes
        raise SpectrumError(f"{path!r} is not a usable path: {error}.") from error
    if not resolved.is_relative_to(root):
        raise SpectrumError(f"{path} lies outside the data root.")
    return resolved


def _load_file(
    root: Path, path: str, members: list[str], coadd_mask: str
) -> list[Row | SpectrumError]:
    with refusing(path):
        rows = read_spectra(resolve_inside(root, path), members, coadd_mask=coadd_mask)
        read = [row for row in rows if isinstance(row, SpectrumArrays)]
        normalised = iter(_normalised(Path(path).name, read) if read else [])
    return [next(normalised) if isinstance(row, SpectrumArrays) else row for row in rows]


def _normalised(name: str, spectra: list[SpectrumArrays]) -> list[Row | SpectrumError]:
    flux, error, mask = zip(*((each.flux, each.error, each.mask) for each in spectra), strict=True)
    return [
        SpectrumError(f"A spectrum of {name} has {row}.") if isinstance(row, str) else row
        for row in network_input(flux, error, mask)
    ]

"""Spectra to train on: found, read and normalised once, and kept in a memory map."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from producer.process_pool import LostProcessError, shared_out
from producer.sources.files import Wanted, find_files, spectra_of
from worker.errors import FatalError, UsageError
from worker.file_names import name_on_disk
from worker.results.snr import known_snr
from worker.spectra.load import load_spectra
from worker.spectra.pixels import N_PIXELS
from worker.spectra.versions import file_version
from worker.training.data import TrainingSet
from worker.training.label_table import LabelTable

#: A change of what the cache holds, or of how spectra are normalised, takes a new number.
_FORMAT = 2
_FILES_AT_ONCE = 16

Floats32 = NDArray[np.float32]
#: Told of files that have been read, and what shows it.
Finished = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Finished]]


@dataclass(frozen=True)
class CachedSpectrum:
    """What the cache knows of one row: its file below the data root, what it is, and its S/N."""

    path: str
    member: str
    mask_key: str
    star: str
    snr: float | None


@dataclass(frozen=True)
class SpectraCache:
    """Normalised spectra on disk, and the reasons for which others are not there.

    ``flux`` is a memory map ``(n, 7514)``, one row for each of ``spectra``; ``reused`` tells
    whether it was there already.
    """

    flux: Floats32
    spectra: tuple[CachedSpectrum, ...]
    failures: Counter[str]
    reused: bool


@dataclass(frozen=True)
class Matched:
    """Labelled spectra, what found no partner, and what is to be said of the table of labels."""

    data: TrainingSet
    spectra_without_labels: int
    rows_without_spectrum: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """What a reading process needs to know besides its files."""

    data_root: Path
    wanted: Wanted
    coadd_mask: str


def cached_spectra(
    paths: Sequence[Path],
    cache: Path,
    *,
    data_root: Path,
    wanted: Wanted,
    coadd_mask: str,
    processes: int,
    progress: Progress,
) -> SpectraCache:
    """The normalised spectra below some paths, read anew unless the cache holds just these.

    Parameters
    ----------
    cache
        The ``.npy`` file; what its rows are stands in a ``.json`` beside it.
    progress
        Makes the context of a progress bar, given what is done and to how many files.

    Raises
    ------
    UsageError
        There is nothing to read, or nothing that can be read, or other files lie in the place
        of the cache.
    FatalError
        The cache cannot be written, or a process was killed.
    """
    files = find_files(paths, data_root)
    source = _Source(data_root.resolve(), wanted, coadd_mask)
    digest = _digest(files, source)
    index = cache.with_suffix(".json")
    known = _read_index(index, digest)
    reused = known is not None and cache.exists()
    if known is None or not reused:
        _refuse_others(cache, index)
        with progress("Reading spectra", len(files)) as finished:
            known = _write_cache(
                cache, index, _read_files(files, source, processes, finished), digest
            )
    spectra = tuple(CachedSpectrum(**entry) for entry in known["spectra"])
    failures = Counter(known["failures"])
    if not spectra:
        reason = failures.most_common(1)[0][0] if failures else "there are no visits in them."
        raise UsageError(f"None of the {len(files)} files gives a spectrum: {reason}")
    return SpectraCache(np.load(cache, mmap_mode="r"), spectra, failures, reused)


def match(cache: SpectraCache, table: LabelTable, data_root: Path) -> Matched:
    """The spectra that a label table knows.

    Raises
    ------
    UsageError
        It knows none of them.
    """
    root = data_root.resolve()
    paths = [root / name_on_disk(spectrum.path) for spectrum in cache.spectra]
    rows = table.rows_of(paths, [spectrum.star for spectrum in cache.spectra], root)
    known = np.asarray(np.isfinite(table.labels).any(axis=1))
    labelled = np.flatnonzero((rows >= 0) & known[rows])
    if not len(labelled):
        raise UsageError(
            f"No row of the label table is for any of the {len(rows)} spectra; its first is "
            f"for {table.names[0]!r}, the first spectrum is {cache.spectra[0].path!r} of the "
            f"star {cache.spectra[0].star!r}."
        )
    spectra = [cache.spectra[index] for index in labelled]
    data = TrainingSet(
        flux=cache.flux,
        rows=labelled,
        labels=table.labels[rows[labelled]],
        e_labels=table.e_labels[rows[labelled]],
        stars=[spectrum.star for spectrum in spectra],
        keys=[spectrum.mask_key for spectrum in spectra],
        snr=known_snr(np.array([spectrum.snr or np.nan for spectrum in spectra])),
    )
    used = len(set(rows[labelled].tolist()))
    return Matched(data, len(rows) - len(labelled), len(table.names) - used, table.notes)


def _digest(files: Sequence[Path], source: _Source) -> str:
    """What must be the same for the cache to serve: files, their versions, and what is read."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_FORMAT} {source.wanted} {source.coadd_mask}".encode())
    for file in files:
        name = os.fsencode(file.relative_to(source.data_root))
        digest.update(b"\0" + name + b"\0" + file_version(file).encode())
    return digest.hexdigest()


def _read_index(index: Path, digest: str) -> dict[str, Any] | None:
    """What the cache holds, if it was made of these very files."""
    try:
        content = json.loads(index.read_text())
    except (OSError, ValueError):
        return None
    fits = isinstance(content, dict) and content.get("digest") == digest
    return content if fits else None


def _refuse_others(cache: Path, index: Path) -> None:
    """Refuse to write over files that are no cache, whole or cut off.

    Raises
    ------
    UsageError
        One of them is something else.
    """
    for path, is_ours in ((cache, _has_our_header), (index, _is_index)):
        if path.is_file() and path.stat().st_size > 0 and not is_ours(path):
            raise UsageError(
                f"{path} is no cache of spectra and would be lost; give another --cache."
            )


def _has_our_header(cache: Path) -> bool:
    try:
        with cache.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return False
    return bool(dtype == np.float32) and shape[1:] == (N_PIXELS,)


def _is_index(index: Path) -> bool:
    start = b'{"digest"'
    with index.open("rb") as file:
        return start.startswith(file.read(len(start)))


def _write_cache(cache: Path, index: Path, parts: Iterator[_Part], digest: str) -> dict[str, Any]:
    """Write rows as they come; the index last, so that a cache that was cut off is no cache."""
    spectra: list[dict[str, Any]] = []
    failures: Counter[str] = Counter()
    try:
        index.unlink(missing_ok=True)
        cache.unlink(missing_ok=True)  # a process that has mapped the old file keeps it
        with cache.open("wb") as file:
            _write_header(file, 0)
            for part in parts:
                file.write(part.flux.astype("<f4", copy=False).tobytes())
                spectra += [asdict(spectrum) for spectrum in part.spectra]
                failures.update(part.reasons)
            file.seek(0)
            _write_header(file, len(spectra))
        content = {"digest": digest, "spectra": spectra, "failures": dict(failures)}
        index.write_text(json.dumps(content))
    except OSError as error:
        raise FatalError(f"The cache {cache} cannot be written: {error.strerror}.") from error
    return content


def _write_header(file: BinaryIO, n_spectra: int) -> None:
    """The header of the .npy file; it has the same length for any number of spectra."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (n_spectra, N_PIXELS)}
    )


@dataclass(frozen=True)
class _Part:
    """What some files gave."""

    flux: Floats32
    spectra: list[CachedSpectrum]
    reasons: list[str]
    n_files: int


def _read_files(
    files: Sequence[Path], source: _Source, processes: int, finished: Finished
) -> Iterator[_Part]:
    """Parts in the order of the files."""
    chunks = [files[i : i + _FILES_AT_ONCE] for i in range(0, len(files), _FILES_AT_ONCE)]
    processes = min(processes, len(chunks))
    for part in _parts(chunks, source, processes):
        yield part
        finished(part.n_files)


def _parts(chunks: Sequence[Sequence[Path]], source: _Source, processes: int) -> Iterator[_Part]:
    read = partial(_read_part, source)
    if processes == 1:
        yield from map(read, chunks)
        return
    try:
        yield from shared_out(read, chunks, processes)
    except LostProcessError as error:
        raise FatalError(
            "A process that read spectra was killed, perhaps for want of memory; set "
            "ASTRONN_STREAM_LOAD_PROCESSES to fewer."
        ) from error


def _read_part(source: _Source, files: Sequence[Path]) -> _Part:
    entries = [
        entry for file in files for entry in spectra_of(file, source.data_root, source.wanted)
    ]
    loaded = load_spectra(entries, source.data_root, source.coadd_mask)
    return _Part(
        flux=loaded.flux,
        spectra=[
            CachedSpectrum(
                entry.path, entry.member, entry.mask_key, entry.obj or entry.path, entry.snr
            )
            for entry in loaded.spectra
        ],
        reasons=[reason for _, reason in loaded.failures],
        n_files=len(files),
    )

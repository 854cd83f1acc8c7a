"""Arrays of spectra in, a table of labels out: the network without files, database and Redis."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worker.array_types import Floats
from worker.database.tables import label_columns
from worker.errors import SpectrumError, UsageError
from worker.flags import BAD, ResultFlag
from worker.identity import weights_sha256
from worker.inference.inference import Inference, open_inference
from worker.labels import LABELS
from worker.network.weights.notice import notice_of
from worker.results.columns import table_columns
from worker.results.noise_model import noise_model_for
from worker.results.record import label_values
from worker.settings import get_settings
from worker.spectra.network_input import network_input
from worker.spectra.pixels import N_APSTAR

if TYPE_CHECKING:
    from astropy.table import Table

#: Spectra that are normalised together: some 60 MB.
_AT_ONCE = 256


def infer(
    flux: ArrayLike,
    error: ArrayLike,
    mask: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    snr: ArrayLike | None = None,
    weights: Path | str | None = None,
    noise_model: Path | str | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    mc_samples: int | None = None,
    seed: int | None = None,
) -> Table:
    """Labels of spectra, as ``astronn-stream run --serial`` gives them for the same spectra.

    Parameters
    ----------
    flux, error
        ``(n, 8575)`` on the grid of apStar files, in the rest frame, in
        1e-17 erg/s/cm2/Angstrom; or one spectrum, ``(8575,)``. NaN flux means no data.
    mask
        Their bits of APOGEE_PIXMASK, of any type of number.
    names
        What the spectra are called. A name seeds the spectrum's dropout masks, so with what
        ``worker.identity.mask_key`` gives for it, for example
        ``2M00452143+1634446/6561-56587-131`` or ``2M00452143+1634446/coadd``, its labels are the
        stream's to the last bit. Without names a spectrum is called by its content.
    snr
        ``(n,)`` S/N per pixel, NaN where it is not known; for noise models that depend on it,
        and for ``p_training``.
    weights, noise_model
        Files, or for ``weights`` the names ``starter`` and ``demonstration``; without them those
        of the environment, or else the starter weights with their noise model, and a warning
        that says what these are good for. ``meta["notice"]`` of the table says it in any case.
    device, mc_samples, seed
        As the settings of these names, which count where they are not given.

    Returns
    -------
    Table
        A row for each spectrum, with units: ``name``, the 22 labels and their ``e_`` after the
        noise model, ``raw_`` and ``raw_e_`` as the network gives them, ``p_training``,
        ``result_flags``, ``flag_warn``, ``flag_bad``, ``flag_unlike_training``,
        ``flag_no_result`` and ``no_result_reason``. A spectrum that carries no information has
        NaN for labels, and its reason.

    Raises
    ------
    UsageError
        The arrays do not fit together.
    FatalError
        The weights or the noise model cannot be used, or there is no such device.
    """
    settings = get_settings().changed(
        model=weights, corrections=noise_model, device=device, mc_samples=mc_samples, seed=seed
    )
    spectra = _Spectra.of(flux, error, mask, names, snr)
    notice = notice_of(weights_sha256(settings.weights_file))
    if notice and settings.model is None:
        warnings.warn(notice, stacklevel=2)
    inference = open_inference(
        settings.weights_file,
        mc_samples=settings.mc_samples,
        seed=settings.seed,
        device=settings.device,
    )
    try:
        factors = noise_model_for(inference.weights, settings.corrections_files(inference.weights))
        parts = [_raw_labels(inference, part) for part in spectra.parts()]
    finally:
        inference.close()
    raw, raw_e, p_training = (
        np.concatenate(each) for each in zip(*(part[:3] for part in parts), strict=True)
    )
    values, flags, spoilt = label_values(raw, raw_e, p_training, spectra.snr, factors)
    unread = [reason for part in parts for reason in part[3]]
    reasons = [reason or spoilt.get(row, "") for row, reason in enumerate(unread)]
    for array in (values, p_training):
        array[[bool(reason) for reason in reasons]] = np.nan
    table = _table(spectra.names, values, p_training, flags, reasons)
    table.meta |= {"notice": notice} if notice else {}
    return table


@dataclass(frozen=True)
class _Spectra:
    """The spectra given: ``(n, 8575)`` arrays in native byte order, ``n`` names and S/N."""

    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    mask: NDArray[np.int32]
    names: Sequence[str]
    snr: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        flux: ArrayLike,
        error: ArrayLike,
        mask: ArrayLike,
        names: Sequence[str] | None,
        snr: ArrayLike | None,
    ) -> _Spectra:
        pixels = {"flux": flux, "error": error, "mask": mask}
        arrays = {name: np.atleast_2d(np.asarray(given)) for name, given in pixels.items()}
        for name, array in arrays.items():
            if array.shape != arrays["flux"].shape or array.shape[1:] != (N_APSTAR,):
                raise UsageError(
                    f"{name} has the shape {array.shape}, flux {arrays['flux'].shape}; each has "
                    f"to be (n, {N_APSTAR})."
                )
        spectra = cls(
            arrays["flux"].astype(np.float64),
            arrays["error"].astype(np.float64),
            arrays["mask"].astype(np.int64).astype(np.int32),
            [] if names is None else [str(name) for name in names],
            np.full(len(arrays["flux"]), np.nan) if snr is None else np.asarray(snr, np.float64),
        )
        return spectra._named() if names is None else spectra._checked()

    def __len__(self) -> int:
        return len(self.flux)

    def parts(self) -> Iterator[_Spectra]:
        """Some of the spectra at a time."""
        for first in range(0, max(1, len(self)), _AT_ONCE):
            yield _Spectra(*(values[first : first + _AT_ONCE] for values in self._columns()))

    def _columns(self) -> tuple[Any, ...]:
        return self.flux, self.error, self.mask, self.names, self.snr

    def _named(self) -> _Spectra:
        """With a name for each that follows from its numbers, wherever it stands."""
        pixels = zip(self.flux, self.error, self.mask, strict=True)
        contents = (b"".join(part.tobytes() for part in spectrum) for spectrum in pixels)
        names = [hashlib.blake2b(each, digest_size=8).hexdigest() for each in contents]
        return replace(self, names=names)._checked()

    def _checked(self) -> _Spectra:
        for what, given in (("names", len(self.names)), ("S/N", self.snr.size)):
            if given != len(self):
                raise UsageError(f"There are {given} {what} for {len(self)} spectra.")
        return self


def _raw_labels(
    inference: Inference, spectra: _Spectra
) -> tuple[Floats, Floats, Floats, list[str]]:
    """Raw labels and uncertainties, ``(n, 22)`` each, and ``(n,)`` shares of the training spectra.

    They are NaN where a reason says why.
    """
    raw, raw_e = (np.full((len(spectra), len(LABELS)), np.nan) for _ in range(2))
    p_training = np.full(len(spectra), np.nan)
    rows = [list(part) for part in (spectra.flux, spectra.error, spectra.mask)]
    read = network_input(*rows) if len(spectra) else []
    reasons = [f"The spectrum has {row}." if isinstance(row, str) else "" for row in read]
    flux = [row for row in read if not isinstance(row, str)]
    good = [number for number, row in enumerate(read) if not isinstance(row, str)]
    if good:
        names = [spectra.names[number] for number in good]
        found = inference.infer(np.stack(flux), names, snr=spectra.snr[good])
        for number, labels in zip(good, found, strict=True):
            if isinstance(labels, SpectrumError):
                reasons[number] = str(labels)
            else:
                raw[number], raw_e[number] = labels.raw_labels, labels.raw_e_labels
                p_training[number] = np.nan if labels.p_training is None else labels.p_training
    return raw, raw_e, p_training, reasons


def _table(
    names: Sequence[str],
    values: Floats,
    p_training: Floats,
    flags: NDArray[np.int64],
    reasons: Sequence[str],
) -> Table:
    from astropy.table import Column, Table

    lost = np.array([bool(reason) for reason in reasons])
    bits = np.where(lost, ResultFlag.NO_RESULT.value, flags)
    found = {
        **dict(zip(label_columns(), values.T, strict=True)),
        "p_training": p_training,
        "result_flags": bits,
        "flag_warn": bits != 0,
        "flag_bad": (bits & BAD.value) == BAD.value,
        ResultFlag.UNLIKE_TRAINING.column: (bits & ResultFlag.UNLIKE_TRAINING.value) != 0,
        "flag_no_result": lost,
        "no_result_reason": np.array(reasons, dtype=np.str_),
    }
    described = [column for column in table_columns() if column.name in found]
    return Table(
        [
            Column(np.array(names, dtype=np.str_), name="name", description="Name given"),
            *(
                Column(
                    found[column.name].astype(np.str_ if column.dtype == "str" else column.dtype),
                    name=column.name,
                    unit=column.unit,
                    description=column.description,
                )
                for column in described
            ),
        ]
    )

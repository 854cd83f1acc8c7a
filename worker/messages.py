"""The messages between the stages: small JSON documents of identifiers, never arrays.

A test pins the exact serialised form of each. A change of form takes a new ``version``.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict

Lane = Literal["live", "bulk"]

COADD = "coadd"


def natural_key(path: str, member: str) -> str:
    """The name of a spectrum that does not depend on where its file lies.

    It keys the dropout masks, so a copied or moved file gives the same labels.

    Parameters
    ----------
    path
        The apStar file; only its name without ``.fits`` or ``.fits.gz`` counts.
    member
        ``coadd``, or the name of the visit's apVisit file.

    Returns
    -------
    str
        For example ``apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131``.
    """
    return f"{stem(path)}/{stem(member)}"


def stem(name: str) -> str:
    """The name of a FITS file without its folder and endings."""
    return PurePosixPath(name).name.removesuffix(".gz").removesuffix(".fits")


class Message(BaseModel):
    """A message or a part of one: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SpectrumReference(Message):
    """One spectrum on its way through the stages."""

    job: int
    spectrum: int
    path: str
    member: str

    @property
    def natural_key(self) -> str:
        """See :func:`natural_key`."""
        return natural_key(self.path, self.member)


class LoadSpectra(Message):
    """Read and normalise these spectra. Spectra of one file stand side by side."""

    version: Literal[1] = 1
    lane: Lane
    weights: str
    spectra: tuple[SpectrumReference, ...]

    @property
    def array_key(self) -> str:
        """The key in the array store for the normalised flux of this very chunk."""
        digest = hashlib.blake2b(self.model_dump_json().encode(), digest_size=16)
        return f"astronn-stream:flux:{digest.hexdigest()}"

    def loaded(self, spectra: tuple[SpectrumReference, ...], seconds: float) -> InferSpectra:
        """The message that asks for the labels of what could be loaded."""
        return InferSpectra(
            lane=self.lane,
            weights=self.weights,
            array=self.array_key,
            load_seconds=seconds,
            spectra=spectra,
        )


class InferSpectra(Message):
    """Infer labels for these spectra, whose flux lies in the array store.

    The flux is float32, C order, one row of 7514 pixels per spectrum, in the same order.
    """

    version: Literal[1] = 1
    lane: Lane
    weights: str
    array: str
    load_seconds: float
    spectra: tuple[SpectrumReference, ...]

    def reload(self) -> LoadSpectra:
        """The message that makes the flux anew when the array store has lost it."""
        return LoadSpectra(lane=self.lane, weights=self.weights, spectra=self.spectra)


class SpectrumLabels(Message):
    """The network's answer for one spectrum: 22 labels and uncertainties, uncorrected.

    ``t_elapsed`` is this spectrum's share of the seconds of loading and inference,
    ``t_overhead`` the part of it that is not inference.
    """

    job: int
    spectrum: int
    raw_labels: tuple[float, ...]
    raw_e_labels: tuple[float, ...]
    t_elapsed: float
    t_overhead: float


class RecordLabels(Message):
    """Write these labels."""

    version: Literal[1] = 1
    weights: str
    mc_samples: int
    seed: int
    results: tuple[SpectrumLabels, ...]


class Failure(Message):
    """A spectrum that ends without labels, and the sentence that says why."""

    job: int
    spectrum: int
    reason: str


class NoResult(Message):
    """Write a row without labels for each of these spectra."""

    version: Literal[1] = 1
    failures: tuple[Failure, ...]

    @classmethod
    def of(cls, spectra: tuple[SpectrumReference, ...], reason: str) -> NoResult:
        """One reason for several spectra."""
        return cls(
            failures=tuple(
                Failure(job=each.job, spectrum=each.spectrum, reason=reason) for each in spectra
            )
        )


Stage = Literal["load", "infer", "record"]
STAGES: tuple[Stage, ...] = ("load", "infer", "record")

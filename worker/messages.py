"""The messages between the stages: small JSON documents of identifiers, never arrays.

A test pins the exact serialised form of each. A change of form takes a new ``version``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from worker.identity import natural_key
from worker.labels import LABELS
from worker.queues import ALL_QUEUES, Lane
from worker.redis_keys import flux_key

#: No message that we send comes near these; one that goes beyond is no message of ours.
_MOST_SPECTRA = 10_000
_LONGEST_TEXT = 10_000

Name = Annotated[str, Field(max_length=_LONGEST_TEXT)]


class Message(BaseModel):
    """A message or a part of one: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


#: What a database can hold.
Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Ticket(Message):
    """What a result has to bring back: the job that wants it, and the file it was made from.

    A file that is rewritten opens its job again with the new ``file_version``; what still
    comes from the old file no longer fits the job.
    """

    job: Number
    spectrum: Number
    file_version: Name

    @property
    def ticket(self) -> dict[str, int | str]:
        """What a result says of whose it is, without the other fields of its message."""
        return {name: getattr(self, name) for name in Result.model_fields}


class Result(Ticket):
    """What a stage found out about a spectrum, and which spectrum that is.

    The numbers of jobs and spectra do not say it: a database that was restored gives them again.
    """

    natural_key: Name


class SpectrumReference(Ticket):
    """One spectrum on its way through the stages.

    ``snr`` is its S/N per pixel as the catalogue has it; ``mask_key`` seeds its dropout masks.
    """

    path: Name
    member: Name
    snr: Annotated[float, Field(allow_inf_nan=False)] | None
    mask_key: Name

    @property
    def natural_key(self) -> str:
        """See :func:`natural_key`."""
        return natural_key(self.path, self.member)


References = Annotated[tuple[SpectrumReference, ...], Field(max_length=_MOST_SPECTRA)]


class LoadSpectra(Message):
    """Read and normalise these spectra. Spectra of one file stand side by side."""

    version: Literal[3] = 3
    lane: Lane
    weights: Name
    spectra: References

    @property
    def array_key(self) -> str:
        """The key in the array store for the normalised flux of this very chunk."""
        return flux_key(self.model_dump_json())

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

    version: Literal[3] = 3
    lane: Lane
    weights: Name
    array: Name
    load_seconds: float
    spectra: References

    def reload(self) -> LoadSpectra:
        """The message that makes the flux anew when the array store has lost it."""
        return LoadSpectra(lane=self.lane, weights=self.weights, spectra=self.spectra)


#: Null for a label that the weights have not learnt.
LabelVector = Annotated[
    tuple[float | None, ...], Field(min_length=len(LABELS), max_length=len(LABELS))
]


class SpectrumLabels(Result):
    """The network's answer for one spectrum: 22 labels and uncertainties, uncorrected.

    ``p_training`` is the share of the training spectra that are as unlike the others as this one,
    null where that is not known. ``t_elapsed`` is this spectrum's share of the seconds of loading
    and inference, ``t_overhead`` the part of it that is not inference.
    """

    raw_labels: LabelVector
    raw_e_labels: LabelVector
    p_training: float | None
    t_elapsed: float
    t_overhead: float


class RecordLabels(Message):
    """Write these labels; ``software`` is the version that made them."""

    version: Literal[5] = 5
    software: Name
    weights: Name
    mc_samples: Annotated[int, Field(ge=2, lt=2**63)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    results: Annotated[tuple[SpectrumLabels, ...], Field(max_length=_MOST_SPECTRA)]


class Failure(Result):
    """A spectrum that has no labels, and the sentence that says why."""

    reason: Name

    @field_validator("reason", mode="before")
    @classmethod
    def _storable(cls, reason: str) -> str:
        """What a database takes as text: damaged files bring any byte along, PostgreSQL no NUL."""
        text = reason.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
        return text[:_LONGEST_TEXT]


Failures = Annotated[tuple[Failure, ...], Field(max_length=_MOST_SPECTRA)]


class NoResult(Message):
    """Write a row without labels for each of these spectra."""

    version: Literal[3] = 3
    weights: Name
    failures: Failures


class Setback(Message):
    """Note in the ledger why these spectra are late.

    They are still being tried, or ``waiting`` again for somebody to serve them, at no cost.
    """

    version: Literal[3] = 3
    weights: Name
    failures: Failures
    waiting: bool


class JobNumber(Message):
    """A job and nothing else of it."""

    job: Number


class Unread(Message):
    """Let these jobs wait again: a worker got a message about them of another version.

    Every version understands this one, so its form stays as it is.
    """

    version: Literal[1] = 1
    unread: Annotated[tuple[JobNumber, ...], Field(max_length=_MOST_SPECTRA)]


AnyMessage = LoadSpectra | InferSpectra | RecordLabels | NoResult | Setback | Unread

#: What has to be the same in processes that are to understand each other.
WIRE = " ".join(
    [
        *(
            f"{each.__name__}-{each.model_fields['version'].default}"
            for each in get_args(AnyMessage)
        ),
        *ALL_QUEUES,
    ]
)


def is_of_our_version(message: dict[str, Any], message_type: type[Message]) -> bool:
    """Whether a message's form is the one that this process knows."""
    ours = message_type.model_fields["version"].default
    version = message.get("version", ours)
    return type(version) is not int or version == ours


def jobs_of(message: dict[str, Any]) -> list[int]:
    """The jobs that a message is about, of whatever version it is."""
    parts = [message.get(name, ()) for name in ("spectra", "results", "failures", "unread")]
    return [int(each["job"]) for part in parts for each in part]


def tickets_of(message: Message) -> tuple[Ticket, ...]:
    """The spectra that a message is about."""
    match message:
        case LoadSpectra(spectra=tickets) | InferSpectra(spectra=tickets):
            return tickets
        case RecordLabels(results=tickets):
            return tickets
        case NoResult(failures=tickets) | Setback(failures=tickets):
            return tickets
        case Unread():
            return ()
    raise TypeError(f"{type(message).__name__} is no message of its own")


def failures_of(spectra: Iterable[SpectrumReference], reason: str) -> tuple[Failure, ...]:
    """One reason for several spectra."""
    return tuple(failure_of(each, reason) for each in spectra)


def failure_of(spectrum: SpectrumReference | Result, reason: str) -> Failure:
    """The failure of one spectrum."""
    return Failure.model_validate({**spectrum.ticket, "reason": reason})

"""What can be said about weights: their network, normalisation and provenance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.identity import weights_sha256
from worker.labels import ELEMENT_POSITIONS, LABELS, Label
from worker.network.checkpoint import Metadata
from worker.network.masks import RATE
from worker.network.model import Architecture
from worker.network.published import published_network
from worker.network.weights.read import Weights

#: Means and scatters beyond these are no stars': of abundances and log g in dex, of Teff in K.
_PLAUSIBLE_MEAN = {"dex": (-5.0, 6.0), "K": (2000.0, 50_000.0)}
_PLAUSIBLE_STD = {"dex": 3.0, "K": 10_000.0}
#: What catalogues hold where there is no value.
_NO_VALUE = -9999.0


@dataclass(frozen=True)
class LabelScale:
    """The normalisation of one label, null if it is not learnt; ``warning``: what is wrong."""

    name: str
    unit: str
    mean: float | None
    std: float | None
    warning: str | None

    @classmethod
    def of(cls, label: Label, mean: float, std: float, *, learnt: bool) -> LabelScale:
        """That of a label; one that is not learnt has numbers in the file that mean nothing."""
        if not learnt:
            return cls(label.name, label.unit, None, None, None)
        warning = normalisation_warning(label, mean, std)
        return cls(label.name, label.unit, mean, std, warning)


@dataclass(frozen=True)
class ElementWidths:
    """The pixels and hidden widths of one element's branch."""

    label: str
    pixels: int
    hidden: tuple[int, int]


@dataclass(frozen=True)
class Description:
    """Everything that ``model info`` tells; plain values alone.

    Attributes
    ----------
    parameters
        Number of weights.
    dense
        Hidden widths of the full-spectrum branch.
    dropout_sites
        Number of units at each kind of dropout site, of all elements together.
    input_mean
        Lowest and highest value of the mean spectrum.
    published
        The data release of the published network that it is, if it is one.
    not_learnt
        The labels that its training had none of.
    reference
        From how many spectra it can tell which are unlike those of the training; None if it
        cannot.
    """

    file: str
    bytes: int
    sha256: str
    stored_as: str
    architecture: str
    parameters: int
    dense: tuple[int, int]
    elements: list[ElementWidths]
    dropout_rate: float
    dropout_sites: dict[str, int]
    input_mean: tuple[float, float]
    labels: list[LabelScale]
    published: str | None
    not_learnt: list[str]
    reference: int | None
    metadata: Metadata


def describe(weights: Weights) -> Description:
    """Everything that is known about weights.

    Raises
    ------
    FatalError
        Their file cannot be read.
    """
    model, architecture = weights.model, weights.model.architecture
    published, reference = published_network(weights.metadata), weights.reference
    return Description(
        file=str(weights.file),
        bytes=weights.file.stat().st_size,
        sha256=weights_sha256(weights.file),
        stored_as=weights.stored_as,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dense=architecture.dense,
        elements=_elements(architecture),
        dropout_rate=RATE,
        dropout_sites=_sites(architecture),
        input_mean=(float(model.input_mean.min()), float(model.input_mean.max())),
        labels=[
            LabelScale.of(label, mean, std, learnt=label.name not in weights.not_learnt)
            for label, mean, std in zip(
                LABELS, model.labels_mean.tolist(), model.labels_std.tolist(), strict=True
            )
        ],
        published=None if published is None else published.release,
        not_learnt=list(weights.not_learnt),
        reference=None if reference is None else int(reference.spectra[0]),
        metadata=weights.metadata,
    )


def normalisation_warning(label: Label, mean: float, std: float) -> str | None:
    """What is wrong with the normalisation of a label; None where nothing is.

    If a share p of the training rows were at -9999 and the others near zero, the mean is
    -9999 p and the standard deviation 9999 sqrt(p (1 - p)), as for DR17's phosphorus.
    """
    lowest, highest = _PLAUSIBLE_MEAN[label.unit]
    if lowest < mean < highest and std < _PLAUSIBLE_STD[label.unit]:
        return None
    share = mean / _NO_VALUE
    if 0 < share < 1 and math.isclose(
        std, -_NO_VALUE * math.sqrt(share * (1 - share)), rel_tol=0.1
    ):
        return (
            f"training rows near {_NO_VALUE:.0f} slipped in, about {share:.1%} of them: its "
            "uncertainties are huge"
        )
    return "no set of stars has such a mean and scatter: do not trust this label"


def _elements(architecture: Architecture) -> list[ElementWidths]:
    names = [LABELS[position].name for position in ELEMENT_POSITIONS]
    widths = zip(architecture.element1, architecture.element2, strict=True)
    return [
        ElementWidths(name, pixels, hidden)
        for name, pixels, hidden in zip(names, architecture.windows, widths, strict=True)
    ]


def _sites(architecture: Architecture) -> dict[str, int]:
    """Units by kind of dropout site: those of the elements under one name."""
    sites: dict[str, int] = {}
    for site, units in architecture.dropout_sites.items():
        kind = site.partition(".")[0]
        sites[kind] = sites.get(kind, 0) + units
    return sites

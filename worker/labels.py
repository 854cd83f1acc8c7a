"""The 22 stellar labels: the one list from which heads, columns, exports and docs derive."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """One stellar label.

    Attributes
    ----------
    name
        The name of its columns in our tables.
    unit
        Its unit as astropy writes it.
    description
        One line for table headers.
    peer_name
        What the peers' checkpoints and noise models may call it instead.
    element
        The element whose ASPCAP window its network branch reads, as
        ``astroNN.apogee.aspcap_mask`` names it; None for the three labels of the
        full-spectrum branch.
    """

    name: str
    unit: str
    description: str
    peer_name: str
    element: str | None = None


def _abundance(name: str, symbol: str, element: str, peer_name: str | None = None) -> Label:
    return Label(name, "dex", f"[{symbol}/H] abundance", peer_name or name, element)


#: In the order of the network's output.
LABELS: tuple[Label, ...] = (
    Label("teff", "K", "Effective temperature", "teff"),
    Label("logg", "dex", "Surface gravity, log10 of cm/s2", "logg"),
    _abundance("c_h", "C", "C"),
    _abundance("c_1_h", "C I", "C1", "c1_h"),
    _abundance("n_h", "N", "N"),
    _abundance("o_h", "O", "O"),
    _abundance("na_h", "Na", "Na"),
    _abundance("mg_h", "Mg", "Mg"),
    _abundance("al_h", "Al", "Al"),
    _abundance("si_h", "Si", "Si"),
    _abundance("p_h", "P", "P"),
    _abundance("s_h", "S", "S"),
    _abundance("k_h", "K", "K"),
    _abundance("ca_h", "Ca", "Ca"),
    _abundance("ti_h", "Ti", "Ti"),
    _abundance("ti_2_h", "Ti II", "TiII", "ti2_h"),
    _abundance("v_h", "V", "V"),
    _abundance("cr_h", "Cr", "Cr"),
    _abundance("mn_h", "Mn", "Mn"),
    Label("fe_h", "dex", "[Fe/H] abundance", "fe_h"),
    _abundance("co_h", "Co", "Co"),
    _abundance("ni_h", "Ni", "Ni"),
)

LABEL_NAMES: tuple[str, ...] = tuple(label.name for label in LABELS)

#: Positions in the output of the 19 labels with a censored element branch, in branch order.
ELEMENT_POSITIONS: tuple[int, ...] = tuple(
    position for position, label in enumerate(LABELS) if label.element is not None
)

#: Positions in the output of the labels of the full-spectrum branch: Teff, log g, [Fe/H].
FULL_SPECTRUM_POSITIONS: tuple[int, ...] = tuple(
    position for position, label in enumerate(LABELS) if label.element is None
)


def told_not_learnt(names: Collection[str], what: str = "not learnt") -> str:
    """A sentence that says how many labels are not learnt, or what else, and which."""
    return f"{len(names)} of {len(LABELS)} labels are {what}: {', '.join(names)}."

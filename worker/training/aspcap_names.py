"""What ASPCAP's tables call the labels, the flags and the elements, from DR13 to DR20.

Sources: the survey's own software (github.com/sdss/apogee: ``aspcap/aspcap.py`` for the order of
the elements, ``utils/bitmask.py`` for the bits, ``aspcap/cal.py`` for what is calibrated;
github.com/sdss/astra: ``models/aspcap.py`` for DR19 and DR20), and
www.sdss.org/dr17/irspec/abundances, .../apogee-bitmasks.
"""

from __future__ import annotations

import re

from worker.labels import LABELS, Label

IRON = next(label for label in LABELS if label.name == "fe_h")

#: ``ASPCAPFLAG``: the star as a whole is bad.
STAR_BAD = 1 << 23

#: ``EXTRATARG``: another row of the same star has a higher S/N.
DUPLICATE = 1 << 4

#: ``C_FE_FLAG``, ``ELEMFLAG``: at the grid's edge, outside the calibration, another error, no
#: solution, at odds with the other parameters, temperature for which the element is not reliable.
#: The warnings among the others do not hinder.
BAD_BITS = sum(1 << bit for bit in (0, 1, 2, 3, 4, 6))

#: ``c_h_flags`` of DR19 and DR20: censored for temperature, for microturbulence or as unphysical,
#: and at the grid's edge. Possible upper limits (bits 0 to 4) and warnings do not hinder.
BAD_BITS_OF_ASTRA = sum(1 << bit for bit in (5, 6, 7, 8))

#: The elements of ``X_H`` from DR13 on; releases differ in those that follow, from copper on.
_ELEMENTS = (
    *("C", "CI", "N", "O", "Na", "Mg", "Al", "Si", "P", "S"),
    *("K", "Ca", "Ti", "TiII", "V", "Cr", "Mn", "Fe", "Co", "Ni"),
)

#: By the length of an array: 26 elements in DR13 to DR16, 27 in DR17, of which it releases 20.
_ORDERS = {
    26: _ELEMENTS,
    27: _ELEMENTS,
    20: (*(element for element in _ELEMENTS if element != "P"), "Ce"),
}

#: How ASPCAP calls the two species with numbers in their names.
_SPECIES = {"c_1_h": "ci", "ti_2_h": "tiii"}

#: Names that look like labels: elements that are not among the 22, and other spellings.
_LOOKS_LIKE_LABEL = re.compile(
    r"(m|alpha|a|li|be|b|f|ne|sc|cu|zn|ge|as|se|rb|sr|y|zr|nb|mo|ru|ag|ba|la|ce|pr|nd|sm|eu"
    r"|gd|dy|yb|pb|c13|[cnopskv]|na|mg|al|si|ca|ti|cr|mn|fe|co|ni)(1|2|_1|_2|i{1,3})?_?(h|fe|m)"
    r"|\[.{1,6}/.{1,3}\]|t_?eff(_k)?|log_?\(?g\)?|met(al(licity|s)?)?"
)


def direct_names(label: Label) -> tuple[str, ...]:
    """The columns that may hold a label itself, in small letters; our own name goes first."""
    if label.name in ("teff", "logg"):
        return (label.name,)
    return tuple(f"{stem}_h" for stem in stems(label))


def stems(label: Label) -> tuple[str, ...]:
    """What stands for an element in the names of columns: ``ti_2``, ``ti2`` and ``tiii``."""
    own = [name.removesuffix("_h") for name in (label.name, label.peer_name)]
    species = _SPECIES.get(label.name)
    return tuple(dict.fromkeys([*own, species] if species else own))


def elements_of(length: int) -> tuple[str, ...]:
    """The elements in the order of an array of ASPCAP; none where its length tells no release."""
    return _ORDERS.get(length, ())


def ratio_names(label: Label) -> tuple[str, ...]:
    """The columns that may hold [X/Fe], in small letters; none for a label that has none."""
    return () if label.element is None else tuple(f"{stem}_fe" for stem in stems(label))


#: All columns of [X/Fe], and of the labels themselves, in small letters.
RATIO_NAMES = frozenset(name for label in LABELS for name in ratio_names(label))
_DIRECT_NAMES = frozenset(name for label in LABELS for name in direct_names(label))


def looks_like_label(name: str) -> bool:
    """Whether a column, in small letters, might be meant as a label and is none of the 22."""
    known = name in RATIO_NAMES or name in _DIRECT_NAMES
    return not known and _LOOKS_LIKE_LABEL.fullmatch(name) is not None

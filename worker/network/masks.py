"""The dropout masks of a spectrum's passes: their definition, in numpy.

The masks belong to the spectrum. A unit's number depends on the seed, the spectrum's natural
key, the pass, the dropout site and the unit, and on nothing else: not on the batch, the device or
the number of threads. ``docs/mc_dropout.md`` is the definition in words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.network.model import FILTERS, POOL, Architecture
from worker.network.philox import philox, philox_key
from worker.spectra.pixels import N_PIXELS

RATE = 0.3
#: A unit is dropped when its 16-bit number is below this: 0.3 to within 4e-6.
THRESHOLD = round(RATE * 2**16)
KEEP_SCALE = 1 / (1 - RATE)

CONV1, POOLED, DENSE_1, ELEMENT1, ELEMENT2 = range(5)
#: A call of the generator gives four words and so eight numbers.
NUMBERS_PER_BLOCK = 8

Masks = dict[str, NDArray[np.bool_]]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """Where the units of one dropout site find their numbers.

    Attributes
    ----------
    number
        The counter's second word.
    numbers
        ``(units,)``: which of the site's numbers each unit has; number j of block b is 8 b + j.
    """

    number: int
    numbers: Indices


def mask_sites(architecture: Architecture) -> dict[str, Site]:
    """The dropout sites of a network by their names in ``worker.network.model``."""
    position = np.arange(N_PIXELS)
    channel = np.arange(FILTERS[0])[:, None]
    conv1 = NUMBERS_PER_BLOCK * (position // POOL) + 2 * (position % POOL) + channel
    position, channel = np.divmod(np.arange(N_PIXELS // POOL * FILTERS[1]), FILTERS[1])
    pool = NUMBERS_PER_BLOCK * (position // 2) + 2 * channel + position % 2
    sites = {
        "conv1": Site(CONV1, conv1.ravel()),
        "pool": Site(POOLED, pool),
        "dense_1": Site(DENSE_1, np.arange(architecture.dense[0])),
    }
    for name, site, widths in (
        ("elem_dense1", ELEMENT1, architecture.element1),
        ("elem_dense2", ELEMENT2, architecture.element2),
    ):
        parts = np.split(np.arange(sum(widths)), np.cumsum(widths)[:-1])
        sites |= {f"{name}.{i}": Site(site, part) for i, part in enumerate(parts)}
    return sites


def site_blocks(sites: dict[str, Site]) -> dict[int, int]:
    """How many calls of the generator each site number takes for one pass."""
    blocks: dict[int, int] = {}
    for site in sites.values():
        last = int(site.numbers.max()) // NUMBERS_PER_BLOCK + 1
        blocks[site.number] = max(last, blocks.get(site.number, 0))
    return blocks


def dropout_masks(seed: int, mask_key: str, passes: range, architecture: Architecture) -> Masks:
    """The dropout masks of some passes of one spectrum.

    Returns
    -------
    dict
        For each dropout site of the network ``(passes, units)``: True where a unit is kept.
    """
    sites = mask_sites(architecture)
    key = philox_key(seed, mask_key)
    kept = {
        site: _numbers(key, site, blocks, passes) >= THRESHOLD
        for site, blocks in site_blocks(sites).items()
    }
    return {name: kept[site.number][:, site.numbers] for name, site in sites.items()}


def _numbers(key: tuple[int, int], site: int, blocks: int, passes: range) -> NDArray[np.uint16]:
    """The 16-bit numbers of a site, ``(passes, 8 blocks)``: low half of each word first."""
    counter = np.zeros((len(passes), blocks, 4), dtype=np.uint64)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = site
    counter[..., 2] = np.array(passes, dtype=np.uint64)[:, None]
    words = philox(counter, key).astype("<u4")
    return words.view("<u2").reshape(len(passes), -1)

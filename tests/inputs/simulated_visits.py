"""Stars and visits of random numbers, for tests of how simulated files are written."""

from __future__ import annotations

import numpy as np

from producer.simulation.observation import Star, Visits

N_PIXELS = 8575
#: What the chips cover at no velocity, typed anew: tests shall not take it from the code.
CHIPS = (slice(210, 3310), slice(3550, 6115), slice(6305, 8370))


def simulated_star(seed: int = 0, telescope: str = "apo25m") -> Star:
    rng = np.random.default_rng([seed, 1])
    labels = rng.normal(0, 0.3, 22)
    labels[:2] = 4800.0, 2.5
    return Star(
        obj=f"2M{seed:08d}+1634446",
        ra=11.3393,
        dec=16.579,
        magnitudes=(13.059, 12.059, 11.366),
        v_helio=6.75,
        labels=labels,
        telescope=telescope,
        location=4476,
    )


def simulated_visits(
    n: int, seed: int = 0, levels: tuple[float, ...] = (), noise: float = 0.01
) -> Visits:
    """Visits of one spectrum at several levels, with every bit of the mask and moving ends."""
    rng = np.random.default_rng([seed, 2])
    shape = (n, N_PIXELS)
    level = np.array([*levels, *rng.uniform(80, 300, n)])[:n, None]
    spectrum = 1 - 0.3 * rng.random(N_PIXELS) ** 8
    error = noise * level * rng.uniform(0.8, 1.3, shape)
    mask = np.where(rng.random(shape) < 0.08, 1 << rng.integers(0, 15, shape), 0)
    lost = rng.random(N_PIXELS) < 0.01
    mask[:, lost] |= 1 << rng.integers(0, 8, lost.sum())
    covered = np.zeros(shape, dtype=bool)
    for row in covered:
        move = int(rng.integers(-40, 41))
        for chip in CHIPS:
            row[chip.start + move : chip.stop + move] = True
    images = {
        "flux": level * spectrum + error * rng.normal(size=shape),
        "error": error,
        "sky": rng.uniform(1, 20, shape),
        "e_sky": rng.uniform(0.1, 2, shape),
        "telluric": rng.uniform(0.5, 1, shape),
        "e_telluric": rng.uniform(0, 0.01, shape),
    }
    return Visits(
        **{name: image.astype(np.float32) for name, image in images.items()},
        mask=mask.astype(np.int32),
        covered=covered,
        plate=np.full(n, 6561),
        mjd=56587 + 20 * np.arange(n),
        fiber=rng.integers(1, 301, n),
        jd=2456587.7 + 20 * np.arange(n),
        barycentric=rng.uniform(-28, 28, n),
        snr=1 / (noise * rng.uniform(0.9, 1.1, n)),
    )

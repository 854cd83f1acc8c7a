"""The post-hoc noise model: ``e_label = scale * raw_e_label + offset``, label by label.

A JSON or TOML file may also give a factor by S/N, ``"by_snr": {"snr": [...], "factor": [...]}``,
by which that is multiplied: linear in S/N between those places, constant beyond them.

The factors come from the peers' pickle ``(corrections, meta)``, or from JSON or TOML of the
form ``{label: {"scale": ..., "offset": ...}}``. A pickle can run code, so it is read by an
unpickler that knows the numpy names that such a file needs and refuses all others; and since
numpy itself crashes on forged arrays and types, it gets stand-ins of ours in numpy's place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.errors import FatalError, UsageError
from worker.labels import LABELS
from worker.plain_pickle import RefusedError
from worker.results.peer_pickle import read_pickle
from worker.text import printable

logger = logging.getLogger(__name__)

#: The peers' files are 70 kB; no list of 22 pairs of factors needs more than this.
_LARGEST_FILE = 1 << 20
#: tomllib's time goes with the square of a dotted key's parts, and such a key fills one line.
_LARGEST_TOML, _MOST_DOTS = 1 << 16, 500
#: The raw uncertainties, by unit, for which every noise model has to give a positive one.
RAW_RANGE = {"K": (20.0, 1e5), "dex": (0.02, 1e2)}
#: Positive in earnest: a scale of 1e-300 makes an uncertainty that is none.
_E_RANGE = (1e-6, 1e9)


@dataclass(frozen=True)
class SnrFactors:
    """Factors on a label's uncertainty at some S/N, ``(p,)`` each; errors where they are known."""

    snr: NDArray[np.float64]
    factor: NDArray[np.float64]
    error: NDArray[np.float64] | None = None

    def at(self, snr: NDArray[np.float64]) -> NDArray[np.float64]:
        """The factor at each S/N; 1 where that is not known (NaN, or 0 as DR17 writes it)."""
        return np.where(snr > 0, np.interp(snr, self.snr, self.factor), 1.0)


@dataclass(frozen=True)
class NoiseModel:
    """Scale and offset per label, ``(22,)`` each, and the SHA-256 of the file they came from.

    Offsets are in the labels' units. ``sha256`` is None for the identity. ``by_snr`` holds 22
    factors by S/N, None for a label that has none, or nothing at all. ``weights_sha256`` says
    for which weights it is, where the file does.
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    sha256: str | None
    by_snr: tuple[SnrFactors | None, ...] = ()
    weights_sha256: str | None = None

    def apply(
        self, raw_e_labels: NDArray[np.float64], snr: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Calibrated uncertainties, ``(n, 22)``; without ``snr``, ``(n,)``, it is not known."""
        e_labels = self.scale * raw_e_labels + self.offset
        if snr is not None:
            for position, factors in enumerate(self.by_snr):
                if factors is not None:
                    e_labels[:, position] *= factors.at(snr)
        return e_labels

    def fits(self, weights: str) -> bool:
        """Whether it is for the weights with this SHA-256; one that names none is for all."""
        return self.weights_sha256 in (None, weights)

    def spoilt(
        self, raw_e_labels: NDArray[np.float64], e_labels: NDArray[np.float64]
    ) -> dict[int, str]:
        """The rows in which an uncertainty is not positive and finite, and what it is.

        Where all passes agree to the last bit the network's own is 0, and may stay so. A label
        that was not learnt (NaN) has none.
        """
        good = np.isfinite(e_labels) & ((e_labels > 0) | ((e_labels == 0) & (raw_e_labels == 0)))
        good |= np.isnan(raw_e_labels)
        return {
            int(row): f"e_{LABELS[label].name} = {e_labels[row, label]:.3g}, where raw_e is "
            f"{raw_e_labels[row, label]:.3g}"
            for row in np.flatnonzero(~good.all(axis=1))
            for label in [int(np.argmin(good[row]))]
        }

    @property
    def depends_on_snr(self) -> bool:
        """Whether the S/N of a spectrum makes a difference."""
        return any(factors is not None for factors in self.by_snr)


def identity() -> NoiseModel:
    """The noise model that leaves uncertainties as they are."""
    return NoiseModel(np.ones(len(LABELS)), np.zeros(len(LABELS)), None)


def read_noise_model(path: Path | None) -> NoiseModel:
    """Read the factors of a ``.pkl``, ``.json`` or ``.toml`` file; identity without one.

    Raises
    ------
    FatalError
        The file cannot be read, would run code, or lacks factors for some label that make
        positive and finite uncertainties.
    """
    if path is None:
        return identity()
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise FatalError(f"The noise model {path} is larger than 1 MiB.")
        content = path.read_bytes()
    except OSError as error:
        raise FatalError(f"The noise model {path} cannot be read: {error.strerror}.") from error
    factors = _parse(path, content)
    pairs = [_pair(path, factors, label.name, label.peer_name) for label in LABELS]
    scale, offset = np.array(pairs).T
    by_snr = tuple(_snr_factors(path, factors, label.name, label.peer_name) for label in LABELS)
    _check_positive(path, scale, offset, by_snr)
    about = factors.get("about")
    weights = about.get("weights_sha256") if isinstance(about, Mapping) else None
    return NoiseModel(
        scale,
        offset,
        hashlib.sha256(content).hexdigest(),
        by_snr,
        weights if isinstance(weights, str) else None,
    )


def noise_model_for(weights: str, files: Sequence[Path]) -> NoiseModel:
    """The first of these noise models that fits the weights with this SHA-256.

    One that names other weights does not; one that names none fits all. Where none fits,
    uncertainties stay as they are, which rows show.

    Raises
    ------
    FatalError
        One of the files cannot be used.
    """
    models = [read_noise_model(file) for file in files]
    chosen = next((each for each in models if each.fits(weights)), None)
    if models and chosen is None:
        logger.warning("action=record weights=%s: no noise model is for them", weights[:12])
    return chosen or identity()


def check_fits(noise_model: NoiseModel, path: Path, weights: str) -> None:
    """Make sure that a noise model is not for others than the weights with this SHA-256.

    Raises
    ------
    UsageError
        It is.
    """
    if not noise_model.fits(weights):
        raise UsageError(
            f"{path} is the noise model of other weights "
            f"({printable(str(noise_model.weights_sha256))[:12]}) than those of the labels "
            f"({weights[:12]}); derive one by `astronn-stream calibrate`."
        )


def _check_positive(
    path: Path, scale: NDArray[np.float64], offset: NDArray[np.float64], by_snr: Sequence[Any]
) -> None:
    """Refuse factors that spoil an uncertainty.

    A scale of 0 is fine with an offset: all are that then. A negative offset too, if small: the
    fit to repeat visits finds some. What it spoils of raw uncertainties below the range gets no
    labels (:meth:`NoiseModel.spoilt`). What rises is extreme at the ends of the range.
    """
    for label, a, b, factors in zip(LABELS, scale, offset, by_snr, strict=True):
        raw_e = np.array(RAW_RANGE[label.unit])
        by = np.ones(1) if factors is None else factors.factor
        with np.errstate(over="ignore"):
            e_label = (a * raw_e + b)[:, np.newaxis] * by
        if a < 0 or e_label.min() < _E_RANGE[0] or e_label.max() > _E_RANGE[1]:
            raise FatalError(
                f"The noise model {path.name} cannot be used for {label.name}: scale {a:.3g} and "
                f"offset {b:.3g} make uncertainties from {e_label.min():.3g} to "
                f"{e_label.max():.3g} of raw ones from {raw_e[0]:g} to {raw_e[1]:g}."
            )


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    readers: dict[str, Callable[[bytes], Any]] = {
        ".pkl": read_pickle,
        ".json": lambda text: json.loads(text, object_pairs_hook=_without_twins),
        ".toml": _read_toml,
    }
    if path.suffix not in readers:
        raise FatalError(f"The noise model {path.name} is no .pkl, .json or .toml file.")
    try:
        factors = readers[path.suffix](content)
    except RefusedError as error:
        raise FatalError(
            f"The noise model {path.name} is refused: the pickle asks for {error}, which no "
            "noise model needs. Nothing of it was run."
        ) from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise FatalError(f"The noise model {path.name} cannot be read: {error}.") from error
    if not isinstance(factors, Mapping):
        raise FatalError(f"The noise model {path.name} holds no table of labels.")
    return factors


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON, in which the last of equal keys would count in silence."""
    table = dict(pairs)
    if len(table) < len(pairs):
        twin = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twin[:40]!r} is given twice")
    return table


def _read_toml(content: bytes) -> dict[str, Any]:
    lines = content.split(b"\n")
    if len(content) > _LARGEST_TOML or max(line.count(b".") for line in lines) > _MOST_DOTS:
        raise ValueError(
            f"it is larger than {_LARGEST_TOML >> 10} KiB, or a line has over {_MOST_DOTS} dots"
        )
    return tomllib.loads(content.decode())


def _entry(factors: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((factors[name] for name in names if name in factors), None)


def _pair(path: Path, factors: Mapping[str, Any], *names: str) -> tuple[float, float]:
    entry = _entry(factors, names)
    if len(set(names) & factors.keys()) > 1:
        raise FatalError(f"The noise model {path.name} gives {names[0]} twice, by both its names.")
    try:
        pair = (float(entry["scale"]), float(entry["offset"]))
    except (TypeError, LookupError, ValueError, OverflowError) as error:
        raise FatalError(
            f"The noise model {path.name} gives no scale and offset for {names[0]}."
        ) from error
    if not np.isfinite(pair).all():
        raise FatalError(f"The noise model {path.name} is not finite for {names[0]}.")
    return pair


def _snr_factors(path: Path, factors: Mapping[str, Any], *names: str) -> SnrFactors | None:
    entry = _entry(factors, names)
    if not isinstance(entry, Mapping) or "by_snr" not in entry:
        return None
    try:
        snr, factor = (
            np.array([float(each) for each in entry["by_snr"][key]]) for key in ("snr", "factor")
        )
    except (TypeError, LookupError, ValueError, OverflowError):
        snr = factor = np.array([])
    values = np.concatenate([snr, factor])
    usable = len(snr) == len(factor) > 0 and np.isfinite(values).all() and (values > 0).all()
    if not usable or (np.diff(snr) <= 0).any():
        raise FatalError(
            f"The noise model {path.name} gives factors by S/N for {names[0]} that cannot be used: "
            "by_snr wants as many positive factors as rising, positive S/N."
        )
    return SnrFactors(snr, factor)


def by_snr_entry(factors: SnrFactors) -> dict[str, Any]:
    """Factors by S/N as the file has them."""
    error = {} if factors.error is None else {"error": factors.error.tolist()}
    return {"snr": factors.snr.tolist(), "factor": factors.factor.tolist(), **error}

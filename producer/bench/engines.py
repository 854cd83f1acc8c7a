"""The engines beside the plain loop of passes: inference alone, on one device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from producer.bench.floors import inference_floor
from producer.bench.measured import Measured, Tell, Way, alternate, compare
from producer.bench.memory import available, peak_memory
from producer.bench.plain_network import plain_loop
from producer.bench.spectra import noise
from worker.network.checkpoint import read_checkpoint
from worker.network.engines.choose import choose_device, every_engine
from worker.network.engines.engine import Engine
from worker.network.model import ApogeeBCNNCensored
from worker.settings import Settings

PLAIN = "plain loop"
#: Megabytes that the plain loop takes for a spectrum of its batch, and a half more.
_PLAIN_MB = 1.0
#: The precisions that names of engines mention; without one it is float32.
_PRECISIONS = ("bfloat16", "float16")


def measure_engines(
    settings: Settings, batches: Sequence[int], rounds: int, tell: Tell
) -> list[Measured]:
    """Each engine and the plain loop at each batch size."""
    device = choose_device(settings.device)
    model = read_checkpoint(settings.weights_file).to(device)
    engines = list(
        every_engine(model, mc_samples=settings.mc_samples, seed=settings.seed, device=device)
    )
    floors = engine_floors(model, engines, settings.mc_samples, device)
    rows = []
    for batch in batches:
        case, (flux, keys) = f"batch {batch}", noise(batch)
        ways: dict[str, Way] = {each.name: partial(each, flux, keys) for each in engines}
        if fits_in_memory(batch):
            ways = {PLAIN: partial(plain_loop, model, flux, settings.mc_samples), **ways}
        taken = alternate(ways, rounds, tell=lambda what: tell(f"{case}: {what}"))  # noqa: B023
        tell(f"{case}: memory")
        rows += compare(
            case,
            {way: [each / batch for each in times] for way, times in taken.items()},
            dict.fromkeys(ways, batch),
            plain=PLAIN,
            floors=floors,
            peaks={way: engine_peak(settings, way, batch) for way in ways},
        )
    return rows


def engine_floors(
    model: ApogeeBCNNCensored, engines: Sequence[Engine], passes: int, device: str
) -> dict[str, float]:
    """Seconds of a spectrum that the arithmetic takes, for each engine in its precision."""
    names = (PLAIN, *(each.name for each in engines))
    by_precision = {
        precision: inference_floor(model, passes, precision, device)
        for precision in {precision_of(name) for name in names}
    }
    return {name: by_precision[precision_of(name)] for name in names}


def precision_of(name: str) -> str:
    """That of an engine's largest layer, by its name."""
    return next((each for each in _PRECISIONS if each in name), "float32")


def fits_in_memory(batch: int) -> bool:
    """Whether the plain loop can take so large a batch; beside it there is no ratio."""
    return batch * _PLAIN_MB < available()


def engine_peak(settings: Settings, way: str, batch: int) -> float | None:
    """Megabytes at most of a process of its own that infers one batch."""
    return peak_memory(
        __name__,
        infer_once.__name__,
        way=way,
        weights=str(settings.weights_file),
        device=settings.device,
        mc_samples=settings.mc_samples,
        batch=batch,
    )


def infer_once(way: str, weights: str, device: str, mc_samples: int, batch: int) -> None:
    """Infer one batch; what a process does whose memory is measured."""
    device = choose_device(device)
    model, (flux, keys) = read_checkpoint(Path(weights)).to(device), noise(batch)
    if way == PLAIN:
        plain_loop(model, flux, 2)  # no pass needs more than the one before
        return
    engines = every_engine(model, mc_samples=mc_samples, seed=0, device=device)
    next(each for each in engines if each.name == way)(flux, keys)

"""The engines: all against the reference, and the reference against Astra's own class."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numba.core.errors import NumbaValueError
from numpy.typing import NDArray

from worker.errors import FatalError
from worker.network.engines import choose
from worker.network.engines.choose import choose_device, open_engine
from worker.network.engines.cpu.engine import CpuEngine
from worker.network.engines.engine import Engine, summarise
from worker.network.engines.reference import ReferenceEngine
from worker.network.engines.torch_engine import TorchEngine
from worker.network.model import ApogeeBCNNCensored

Reference = dict[str, NDArray[np.generic]]
Open = Callable[..., Engine]
#: Labels and their uncertainties.
Labelled = tuple[NDArray[np.float64], NDArray[np.float64]]

SEED = 20240607
KEY = "apStar-r6-2M00452143+1634446/apVisit-r6-6561-56587-131"


def float32(model: ApogeeBCNNCensored, **options: int) -> Engine:
    return CpuEngine(model, precision="float32", **options)


def bfloat16(model: ApogeeBCNNCensored, **options: int) -> Engine:
    return CpuEngine(model, precision="bfloat16", **options)


ENGINES = {"torch": TorchEngine, "cpu float32": float32, "cpu bfloat16": bfloat16}
every_engine = pytest.mark.parametrize("open_one", ENGINES.values(), ids=ENGINES)


# --- The engines against the reference -----------------------------------------------------


@pytest.fixture(scope="module")
def expected(model: ApogeeBCNNCensored, spectra: NDArray[np.float32]) -> Callable[[int], Labelled]:
    """What the reference gives for two spectra with so many passes; it takes seconds."""

    @cache
    def labelled(mc_samples: int) -> Labelled:
        engine = ReferenceEngine(model, mc_samples=mc_samples, seed=SEED)
        return engine(spectra[[0, 9]], [KEY, "another"])

    return labelled


@pytest.mark.parametrize(
    ("open_one", "tolerance"),
    [(TorchEngine, 1e-4), (float32, 1e-4), (bfloat16, 1e-2)],
    ids=["torch", "cpu float32", "cpu bfloat16"],
)
@pytest.mark.parametrize(
    ("weights", "mc_samples"),
    [("demonstration", 7), ("demonstration", 51), ("demonstration", 100), ("astra", 51)],
    indirect=["weights"],
)
def test_an_engine_equals_the_reference_within_a_part_of_the_uncertainty(
    model: ApogeeBCNNCensored,
    spectra: np.ndarray,
    expected: Callable[[int], Labelled],
    open_one: Open,
    tolerance: float,
    mc_samples: int,
) -> None:
    engine = open_one(model, mc_samples=mc_samples, seed=SEED)
    labels, e_labels = engine(spectra[[0, 9]], [KEY, "another"])
    wanted, e_wanted = expected(mc_samples)
    assert (np.abs(labels - wanted) < tolerance * e_wanted).all()
    np.testing.assert_allclose(e_labels, e_wanted, rtol=tolerance)


def test_bfloat16_is_worth_less_than_a_hundredth_of_the_monte_carlo_scatter(
    astra_model: ApogeeBCNNCensored, reference: Reference
) -> None:
    flux, keys = reference["spectra"], [f"star {n}" for n in range(16)]
    single, _ = float32(astra_model, mc_samples=100, seed=SEED)(flux, keys)
    half, _ = bfloat16(astra_model, mc_samples=100, seed=SEED)(flux, keys)
    scatter = reference["labels_std"] * np.sqrt(reference["mc_var_unbiased_norm"])
    moved = (half - single) / scatter
    assert 0 < np.sqrt((moved**2).mean()) < 1e-3
    assert np.abs(moved).max() < 1e-2


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_batch_on_other_threads_gives_the_same_bits(
    model: ApogeeBCNNCensored, spectra: np.ndarray, threads: int
) -> None:
    flux = np.concatenate([spectra] * 5)[:70]  # more than go at once
    keys = [f"star {n}" for n in range(70)]
    engine = CpuEngine(model, mc_samples=6, seed=SEED, threads=threads)
    one = CpuEngine(model, mc_samples=6, seed=SEED, threads=2)
    labels, e_labels = engine(flux, keys)
    for row in (0, 63, 64, 69):
        alone, e_alone = one(flux[row : row + 1], [keys[row]])
        assert alone.tobytes() == labels[row].tobytes()
        assert e_alone.tobytes() == e_labels[row].tobytes()


def test_the_engine_leaves_torchs_threads_alone(model: ApogeeBCNNCensored) -> None:
    before = torch.get_num_threads()
    CpuEngine(model, mc_samples=2, seed=0, threads=2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_flux_that_cannot_be_computed_with_gives_no_number(
    model: ApogeeBCNNCensored, spectra: np.ndarray, value: float
) -> None:
    flux = np.repeat(spectra[:1], 2, axis=0)
    flux[0, 4000] = value
    with np.errstate(all="ignore"):
        labels, _ = CpuEngine(model, mc_samples=3, seed=0)(flux, ["a", "b"])
    assert np.isnan(labels[0]).all()
    assert np.isfinite(labels[1]).all()


class Unusable:
    """Stands in for an engine that cannot be opened."""

    error: Exception

    def __init__(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.fixture
def unusable(monkeypatch: pytest.MonkeyPatch) -> type[Unusable]:
    monkeypatch.setitem(choose.ENGINES, "cpu", (__name__, "Unusable"))
    return Unusable


@pytest.mark.parametrize(
    "error",
    [
        NumbaValueError("Cannot unify"),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        subprocess.CalledProcessError(1, ["gcc"]),
        ModuleNotFoundError("No module named 'numba'"),
    ],
    ids=str,
)
def test_what_cannot_be_compiled_is_left_to_torch_with_a_warning(
    model: ApogeeBCNNCensored,
    unusable: type[Unusable],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    unusable.error = error
    assert isinstance(open_engine(model, mc_samples=2, seed=0), TorchEngine)
    (warning,) = caplog.messages
    assert "engine=torch" in warning
    assert str(error).partition(".")[0] in warning or repr(error) in warning


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        MemoryError("no more"),
        TypeError("a mistake of ours"),
    ],
    ids=str,
)
def test_a_device_that_is_full_or_fails_is_no_reason_to_compute_slowly(
    model: ApogeeBCNNCensored, unusable: type[Unusable], error: Exception
) -> None:
    unusable.error = error
    with pytest.raises(type(error), match=re.escape(str(error))):
        open_engine(model, mc_samples=2, seed=0)


def test_without_numba_torch_does_it(
    model: ApogeeBCNNCensored, spectra: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "worker.network.engines.cpu.engine", None)  # its import fails
    engine = open_engine(model, mc_samples=10, seed=SEED)
    assert isinstance(engine, TorchEngine)
    monkeypatch.undo()
    usual = open_engine(model, mc_samples=10, seed=SEED)
    assert isinstance(usual, CpuEngine)
    flux = spectra[:1]
    for one, other in zip(engine(flux, [KEY]), usual(flux, [KEY]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2)


@every_engine
@pytest.mark.parametrize("rows", [[1, 2, 3, 0, 4, 5, 6], [0, 6, 4], [5, 0]], ids=str)
def test_a_spectrum_gets_the_same_bits_alone_and_in_any_company(
    model: ApogeeBCNNCensored, spectra: np.ndarray, open_one: Open, rows: list[int]
) -> None:
    engine = open_one(model, mc_samples=60, seed=SEED)
    alone = engine(spectra[:1], ["star 0"])
    together = engine(spectra[rows], [f"star {row}" for row in rows])
    for one, many in zip(alone, together, strict=True):
        assert many.shape == (len(rows), 22)
        assert one[0].tobytes() == many[rows.index(0)].tobytes()


@pytest.mark.parametrize(("seed", "key"), [(SEED + 1, "star 0"), (SEED, "star 1")])
def test_another_seed_or_spectrum_gives_other_numbers(
    model: ApogeeBCNNCensored, spectra: np.ndarray, seed: int, key: str
) -> None:
    flux = spectra[:1]
    labels, e_labels = CpuEngine(model, mc_samples=10, seed=SEED)(flux, ["star 0"])
    others, e_others = CpuEngine(model, mc_samples=10, seed=seed)(flux, [key])
    assert (labels != others).all()
    assert (e_labels != e_others).all()


def test_means_and_variances_scatter_about_2000_passes_of_astras_class_as_chance_has_it(
    astra_model: ApogeeBCNNCensored, reference: Reference
) -> None:
    # Each spectrum under sixteen keys, 125 passes each: as many passes as theirs in all, and the
    # scatter of sixteen estimates tells the standard error without a guess at distributions.
    assert int(reference["mc_num"]) == 2000
    runs = 16
    flux = np.repeat(reference["spectra"], runs, axis=0)
    engine = CpuEngine(astra_model, mc_samples=2000 // runs, seed=SEED)
    labels, e_labels = engine(flux, [f"star {n}" for n in range(len(flux))])
    for made, theirs in ((labels, reference["mc_mean"]), (e_labels**2, reference["mc_total"] ** 2)):
        each = made.reshape(-1, runs, 22)
        standard_error = each.std(axis=1, ddof=1) * np.sqrt(2 / runs)
        t = (each.mean(axis=1) - theirs) / standard_error
        # By label the sixteen spectra are independent: t is Student's with 15 degrees of freedom.
        # The mean of sixteen squares lies within (0.10, 6.8) and the mean of sixteen within 1.3
        # but once in 10^6 draws each, so some label of 22 fails once in 10^4.
        assert ((t**2).mean(axis=0) > 0.10).all()
        assert ((t**2).mean(axis=0) < 6.8).all()
        assert np.abs(t.mean(axis=0)).max() < 1.3
        # Over all labels, of which those of a spectrum correlate: as if 22 were independent.
        assert 0.6 < (t**2).mean() < 1.9


@pytest.mark.parametrize("shape", [(1, 7514), (2, 7513), (7514,)])
def test_flux_that_does_not_fit_the_keys_is_refused(
    model: ApogeeBCNNCensored, shape: tuple[int, ...]
) -> None:
    engine = CpuEngine(model, mc_samples=2, seed=0)
    with pytest.raises(ValueError, match="for 2 spectra"):
        engine(np.ones(shape, np.float32), ["a", "b"])


def test_summarise_equals_a_literal_loop() -> None:
    generator = np.random.default_rng(5)
    labels, log_variances = generator.normal(size=(2, 9, 22))
    mean, std = summarise(labels, log_variances)
    for label in range(22):
        values = [float(value) for value in labels[:, label]]
        average = sum(values) / 9
        spread = sum((value - average) ** 2 for value in values) / 8
        noise = np.exp(sum(float(value) for value in log_variances[:, label]) / 9)
        assert mean[label] == pytest.approx(average, rel=1e-12)
        assert std[label] == pytest.approx((noise + spread) ** 0.5, rel=1e-12)


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(FatalError, match="no such GPU"):
        choose_device("cuda")

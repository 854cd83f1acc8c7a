"""What becomes of spectra when the network, its device or its memory fails."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.array_types import Floats
from worker.errors import FatalError, SpectrumError, TransientError
from worker.inference import inference
from worker.inference.batching import InferredSpectrum
from worker.inference.inference import Inference, open_inference
from worker.labels import LABEL_NAMES

LONG = 20.0
ILLEGAL_ACCESS = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)


class Network:
    """Stands for the engine: labels from the flux, and ``fault`` for the spectra in ``poison``.

    A spectrum's flux is its number, 7514 times.
    """

    def __init__(self, fault: Callable[[], object] | None = None, *poison: int) -> None:
        self.name = "a network"
        self.fault = fault
        self.poison = poison
        self.batches: list[list[float]] = []
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(
        self, flux: NDArray[np.float32], mask_keys: Sequence[str]
    ) -> tuple[Floats, Floats]:
        assert flux.shape == (len(mask_keys), 7514)
        self.batches.append(flux[:, 0].tolist())
        self.started.set()
        assert self.go_on.wait(LONG)
        if self.fault is not None and np.isin(flux[:, 0], self.poison).any():
            self.fault()
        labels = flux[:, :22].astype(np.float64)
        return labels, labels / 10


Open = Callable[..., Inference]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens inference with a network that stands for the real one, and closes it."""
    opened: list[tuple[Inference, Network]] = []

    def open_inference(network: Network, **sizes: Any) -> Inference:
        served = Inference(
            {"w": network}, mc_samples=2, seed=0, device="cpu", name="network", **sizes
        )
        opened.append((served, network))
        return served

    yield open_inference
    for each, network in opened:
        network.go_on.set()
        each.close()


def flux_of(*numbers: int) -> NDArray[np.float32]:
    """Flux of spectra that are their numbers, 7514 times."""
    return np.repeat(np.array(numbers, np.float32)[:, None], 7514, axis=1)


def infer(served: Inference, *numbers: int) -> tuple[dict[int, float], dict[int, str]]:
    """The first label of the spectra that got labels, and the reasons of those that got none."""
    found = served.infer(flux_of(*numbers), [f"apStar-{n}/coadd" for n in numbers])
    outcomes = dict(zip(numbers, found, strict=True))
    return (
        {
            n: each.raw_labels[0]
            for n, each in outcomes.items()
            if isinstance(each, InferredSpectrum)
        },
        {n: str(each) for n, each in outcomes.items() if isinstance(each, SpectrumError)},
    )


def test_labels_that_were_not_learnt_are_none_whatever_the_network_says(opened: Open) -> None:
    def spoil() -> None:
        raise AssertionError("no spectrum is spoilt")

    class Odd(Network):
        def __call__(
            self, flux: NDArray[np.float32], mask_keys: Sequence[str]
        ) -> tuple[Floats, Floats]:
            labels, e_labels = super().__call__(flux, mask_keys)
            labels[:, 10] = np.inf
            labels[flux[:, 0] == 2, 3] = np.nan
            return labels, e_labels

    served = opened(Odd(spoil), not_learnt={"w": ["p_h", "v_h"], "others": ["teff"]})
    one, two = served.infer(flux_of(1, 2), ["a/coadd", "b/coadd"])
    assert isinstance(one, InferredSpectrum)
    for values in (one.raw_labels, one.raw_e_labels):
        missing = [name for name, value in zip(LABEL_NAMES, values, strict=True) if value != value]
        assert missing == ["p_h", "v_h"]
    assert str(two) == "The network gave no finite c_1_h for b/coadd."


class Counting:
    """Stands for a reference: a spectrum's share is its number, the square of it, over its S/N."""

    def unexplained(self, flux: NDArray[np.float32]) -> Floats:
        return flux[:, :2].astype(np.float64)

    def p_training(
        self, unexplained: Floats, labels: Floats, e_labels: Floats, snr: Floats
    ) -> Floats:
        np.testing.assert_array_equal(labels, 10 * e_labels)
        return unexplained[:, 0] * labels[:, 0] / snr


def test_shares_of_the_training_come_with_the_labels_of_their_weights(opened: Open) -> None:
    served = opened(Network(raising(RuntimeError), 3), references={"w": Counting()})
    found = served.infer(flux_of(1, 3, 2, 5), "abcd", snr=np.array([100.0, 100.0, 8.0, np.nan]))
    shares = [each.p_training for each in found if isinstance(each, InferredSpectrum)]
    assert shares == [0.01, 0.5, None]
    assert isinstance(found[1], SpectrumError)
    other = opened(Network(), references={"others": Counting()}).infer(flux_of(1), "a")
    assert isinstance(other[0], InferredSpectrum)
    assert other[0].p_training is None


def raising(error: BaseException | Callable[[], BaseException]) -> Callable[[], object]:
    def fault() -> None:
        raise error if isinstance(error, BaseException) else error()

    return fault


def allocate_too_much() -> None:
    """What torch raises on a CPU."""
    torch.empty(10**15)


# --- Faults of a spectrum ------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("poison"),
        RuntimeError("expected scalar type Float but found Double"),
        TimeoutError("the engine's own"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_a_spectrum_that_makes_the_network_raise_ends_alone(opened: Open, error: Exception) -> None:
    served = opened(Network(raising(error), 3))
    labels, reasons = infer(served, *range(6))
    assert labels == {n: n for n in (0, 1, 2, 4, 5)}
    assert reasons == {3: f"The network failed on apStar-3/coadd: {error!r}."}
    assert infer(served, 6) == ({6: 6}, {})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 21])
@pytest.mark.parametrize("output", [0, 1], ids=["label", "uncertainty"])
def test_a_spectrum_without_finite_labels_ends_alone(
    opened: Open, output: int, position: int, value: float
) -> None:
    class Damaged(Network):
        def __call__(
            self, flux: NDArray[np.float32], mask_keys: Sequence[str]
        ) -> tuple[Floats, Floats]:
            outputs = super().__call__(flux, mask_keys)
            outputs[output][flux[:, 0] == 2, position] = value
            return outputs

    labels, reasons = infer(opened(Damaged()), 1, 2, 3)
    assert labels == {1: 1, 3: 3}
    name = LABEL_NAMES[position]
    assert reasons == {2: f"The network gave no finite {name} for apStar-2/coadd."}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flux_that_is_not_finite_costs_its_own_labels_alone(weights: Path, value: float) -> None:
    served = open_inference(weights, mc_samples=2, seed=0, device="cpu")
    try:
        keys = [f"apStar-{n}/coadd" for n in (1, 2, 3)]
        flux = np.ones((3, 7514), np.float32)
        clean = served.infer(flux, keys)
        flux[1, 4000] = value
        found = served.infer(flux, keys)
    finally:
        served.close()
    for row in (0, 2):
        one, other = clean[row], found[row]
        assert isinstance(one, InferredSpectrum)
        assert isinstance(other, InferredSpectrum)
        assert one.raw_labels.tolist() == other.raw_labels.tolist()
    assert isinstance(found[1], SpectrumError)
    assert "no finite teff for apStar-2/coadd" in str(found[1])


# --- Faults of nobody: memory --------------------------------------------------------------

OUT_OF_MEMORY = {
    "python": raising(MemoryError),
    "numpy": lambda: np.empty(10**15),
    "torch on a CPU": allocate_too_much,
    "torch on Windows": raising(RuntimeError("DefaultCPUAllocator: not enough memory: you tried")),
    "torch's C++": raising(RuntimeError("std::bad_alloc")),
    "torch": raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
    "torch of another device": raising(torch.OutOfMemoryError("XPU is full")),
    "old name": raising(torch.cuda.OutOfMemoryError("CUDA out of memory.")),
    "CUDA": raising(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be")),
    "cuBLAS": raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `c(h)`")),
    "cuDNN": raising(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
}


@pytest.mark.parametrize("fault", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_memory_that_is_full_is_no_fault_of_the_spectrum(
    opened: Open, fault: Callable[[], object]
) -> None:
    network = Network(fault, 3)
    served = opened(network)
    with pytest.raises(TransientError, match=r"^There is not enough free memory[^\n.]+\.$"):
        infer(served, *range(6))
    assert infer(served, 6) == ({6: 6}, {})
    network.fault = None  # another program has ended, and the message comes again
    assert infer(served, *range(6)) == ({n: n for n in range(6)}, {})


@pytest.mark.parametrize("fault", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_into_memory_gets_its_labels_in_parts(
    opened: Open, fault: Callable[[], object]
) -> None:
    class Small(Network):
        def __call__(
            self, flux: NDArray[np.float32], mask_keys: Sequence[str]
        ) -> tuple[Floats, Floats]:
            if len(flux) > 2:
                fault()
            return super().__call__(flux, mask_keys)

    network = Small()
    assert infer(opened(network), *range(8)) == ({n: n for n in range(8)}, {})
    assert network.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_what_torch_keeps_for_later_is_given_back_when_memory_is_full(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[NDArray[np.float32]]] = []

    def need_more() -> None:
        first = np.ones(3, np.float32)
        kept.append(weakref.ref(first))
        allocate_too_much()

    network = Network(need_more, 3)
    batches_before: list[int] = []

    def empty_cache() -> None:
        assert kept[-1]() is None  # what is in use cannot be given back
        batches_before.append(len(network.batches))

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    with pytest.raises(TransientError):
        infer(opened(network), 3, 4)
    assert network.batches == [[3, 4], [3], [4]]
    assert batches_before == [1, 2]  # before each half


# --- Faults of the device ------------------------------------------------------------------

BROKEN = {
    "CUDA": RuntimeError(ILLEGAL_ACCESS),
    "CUDA driver": RuntimeError("CUDA driver error: device not ready"),
    "cuBLAS": RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublas(h)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    "cuDNN's engines": RuntimeError("GET was unable to find an engine to execute this computation"),
    "allocator": RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator"'),
    "HIP": RuntimeError("HIP error: invalid device function"),
    "thread": SystemExit(3),
}
if hasattr(torch, "AcceleratorError"):
    BROKEN["accelerator"] = torch.AcceleratorError("XPU error: lost")
    BROKEN["CUDA as accelerator"] = torch.AcceleratorError(ILLEGAL_ACCESS)


@pytest.mark.parametrize("error", BROKEN.values(), ids=BROKEN)
def test_a_broken_device_ends_the_process_and_no_spectrum(
    opened: Open, error: BaseException
) -> None:
    network = Network(raising(error), 3)
    served = opened(network)
    texts = []
    for numbers in (range(6), [7], [3]):
        with pytest.raises(FatalError) as caught:
            infer(served, *numbers)
        texts.append(str(caught.value))
    assert len(set(texts)) == 1
    assert texts[0].endswith("this process stops, since only a new one can use the device again.")
    assert "\n" not in texts[0]
    assert str(error).partition("\n")[0] in texts[0]
    assert network.batches == [[0, 1, 2, 3, 4, 5]]  # it was not asked again
    served.close()


def test_messages_that_wait_for_a_broken_device_are_kept(opened: Open) -> None:
    network = Network(raising(RuntimeError(ILLEGAL_ACCESS)), 0)
    network.go_on.clear()
    served = opened(network, batch_size=2)
    errors: list[Exception] = []

    def ask(first: int) -> None:
        try:
            infer(served, first, first + 1)
        except FatalError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 10, 20)]
    for thread in threads:
        thread.start()
        assert network.started.wait(LONG)  # the first message is the one that breaks it
    network.go_on.set()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert len(errors) == len(set(map(id, errors))) == 3
    assert network.batches == [[0, 1]]


def test_a_stuck_device_ends_the_process(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_LONGEST_WAIT", 0.05)
    network = Network()
    network.go_on.clear()
    served = opened(network)
    for numbers in ([1, 2], [3]):
        with pytest.raises(FatalError, match=r"did not answer in 0\.05 s: this process stops"):
            infer(served, *numbers)
    closing = threading.Thread(target=served.close)
    closing.start()
    closing.join(LONG)
    assert not closing.is_alive()


def test_after_an_interruption_nothing_more_is_inferred(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network()
    network.go_on.clear()
    served = opened(network, batch_size=1)

    def interrupted(_: object) -> None:
        assert network.started.wait(LONG)
        raise KeyboardInterrupt

    monkeypatch.setattr(served._batcher, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer(served, 1, 2, 3)
    network.go_on.set()
    served.close()
    assert network.batches == [[1]]

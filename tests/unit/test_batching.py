from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.messages import Lane
from worker.network.batching import InferredSpectrum, MicroBatcher

#: Longer than any machine needs; only a hanging test waits this long.
LONG = 20.0

Floats = NDArray[np.float64]
Answer = Callable[[NDArray[np.float32]], tuple[Floats, Floats]]


def plain(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """22 labels from each spectrum's first pixel, so that each spectrum has its own."""
    first = flux[:, :1].astype(np.float64)
    return first + np.arange(22), first / 1000 + np.arange(22)


class Engine:
    """An engine that can be held: then it signals ``started`` and waits for ``go_on``."""

    def __init__(self, answer: Answer = plain) -> None:
        self.answer = answer
        self.batches: list[list[str]] = []
        self.held = False
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(
        self, flux: NDArray[np.float32], natural_keys: Sequence[str]
    ) -> tuple[Floats, Floats]:
        assert flux.shape == (len(natural_keys), 3)
        self.batches.append(list(natural_keys))
        if self.held:
            self.started.set()
            assert self.go_on.wait(LONG)
        return self.answer(flux)


Open = Callable[..., MicroBatcher]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Makes micro-batchers that are closed when the test ends, however it ends."""
    with_engines: list[tuple[MicroBatcher, Engine]] = []

    def open_batcher(engine: Engine, *, size: int = 4, wait: float = 0.0) -> MicroBatcher:
        batcher = MicroBatcher(engine, batch_size=size, batch_wait=wait)
        with_engines.append((batcher, engine))
        return batcher

    yield open_batcher
    for batcher, engine in with_engines:
        engine.go_on.set()
        batcher.close()


def submit(
    batcher: MicroBatcher, *numbers: int, lane: Lane = "bulk"
) -> list[Future[InferredSpectrum]]:
    """Spectra whose flux and key are their number."""
    flux = np.array([[n, 0, 0] for n in numbers], dtype=np.float32).reshape(-1, 3)
    return batcher.submit(flux, [str(n) for n in numbers], lane)


def hold(batcher: MicroBatcher, engine: Engine) -> Future[InferredSpectrum]:
    """Make the engine busy with spectrum 999, so that what follows must wait."""
    engine.held = True
    (first,) = submit(batcher, 999)
    assert engine.started.wait(LONG)
    engine.held = False
    return first


def assert_answered(futures: Sequence[Future[InferredSpectrum]], *numbers: int) -> None:
    for future, number in zip(futures, numbers, strict=True):
        answer = future.result(LONG)
        np.testing.assert_allclose(answer.raw_labels, number + np.arange(22))
        np.testing.assert_allclose(answer.raw_e_labels, number / 1000 + np.arange(22))
        assert answer.seconds >= 0


def test_a_batch_starts_at_once_when_the_engine_is_idle(opened: Open) -> None:
    engine = Engine()
    assert_answered(submit(opened(engine, size=64), 7), 7)
    assert engine.batches == [["7"]]


def test_what_waits_is_cut_into_batches_of_batch_size(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=4)
    hold(batcher, engine)
    futures = [future for n in range(10) for future in submit(batcher, n)]
    engine.go_on.set()
    assert_answered(futures, *range(10))
    assert engine.batches[1:] == [list("0123"), list("4567"), list("89")]


def test_one_large_request_is_cut_too(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=4)
    hold(batcher, engine)
    futures = submit(batcher, *range(9))
    engine.go_on.set()
    assert_answered(futures, *range(9))
    assert engine.batches[1:] == [list("0123"), list("4567"), list("8")]


def test_an_idle_engine_starts_when_the_batch_is_full_without_waiting_out_its_time(
    opened: Open,
) -> None:
    engine = Engine()
    batcher = opened(engine, size=3, wait=2 * LONG)
    futures = submit(batcher, 1) + submit(batcher, 2)
    assert not any(future.done() for future in futures)
    assert engine.batches == []
    futures += submit(batcher, 3)
    assert_answered(futures, 1, 2, 3)
    assert engine.batches == [["1", "2", "3"]]


def test_an_idle_engine_starts_when_its_time_is_up_though_the_batch_is_not_full(
    opened: Open,
) -> None:
    engine = Engine()
    batcher = opened(engine, size=1000, wait=0.05)
    assert_answered(submit(batcher, 1, 2), 1, 2)
    assert engine.batches == [["1", "2"]]


def test_live_spectra_go_before_bulk_and_each_lane_keeps_its_order(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=3)
    hold(batcher, engine)
    futures = submit(batcher, 0, 1, 2, 3)
    futures += submit(batcher, 10, 11, lane="live")
    futures += submit(batcher, 4)
    futures += submit(batcher, 12, lane="live")
    engine.go_on.set()
    assert_answered(futures, 0, 1, 2, 3, 10, 11, 4, 12)
    assert engine.batches[1:] == [["10", "11", "12"], ["0", "1", "2"], ["3", "4"]]


def test_results_go_to_the_thread_that_asked(opened: Open) -> None:
    batcher = opened(Engine(), size=5)
    answers: dict[int, list[Future[InferredSpectrum]]] = {}
    ready = threading.Barrier(8)

    def ask(thread: int) -> None:
        ready.wait(LONG)
        answers[thread] = submit(batcher, *range(100 * thread, 100 * thread + 30))

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LONG)
    for thread in range(8):
        assert_answered(answers[thread], *range(100 * thread, 100 * thread + 30))


def test_no_batch_holds_more_than_batch_size(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=5)
    futures = list(itertools.chain.from_iterable(submit(batcher, n, n + 1) for n in range(40)))
    for future in futures:
        future.result(LONG)
    assert max(map(len, engine.batches)) <= 5
    assert sum(map(len, engine.batches)) == 80


def test_a_request_of_no_spectra_is_answered(opened: Open) -> None:
    batcher = opened(Engine())
    assert submit(batcher) == []
    assert_answered(submit(batcher, 3), 3)


def test_flux_and_keys_of_different_lengths_are_refused(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine)
    with pytest.raises(ValueError, match="zip"):
        batcher.submit(np.zeros((2, 3), np.float32), ["1"], "bulk")
    assert_answered(submit(batcher, 5), 5)
    assert engine.batches == [["5"]]


@pytest.mark.parametrize(
    "cut",
    [
        lambda labels, e_labels: (labels[:-1], e_labels),
        lambda labels, e_labels: (labels, e_labels[:-1]),
        lambda labels, e_labels: (labels[:-1], e_labels[:-1]),
        lambda labels, e_labels: (np.repeat(labels, 2, axis=0), np.repeat(e_labels, 2, axis=0)),
        lambda labels, e_labels: (labels[:0], e_labels[:0]),
    ],
    ids=["fewer labels", "fewer uncertainties", "fewer of both", "more of both", "none"],
)
def test_an_output_of_another_length_than_the_batch_is_an_error(
    opened: Open, cut: Callable[[Floats, Floats], tuple[Floats, Floats]]
) -> None:
    batcher = opened(Engine(lambda flux: cut(*plain(flux))))
    for future in submit(batcher, 1, 2, 3):
        with pytest.raises(RuntimeError, match=r"\d outputs for 1 spectra"):
            future.result(LONG)


def test_a_short_output_of_a_batch_gives_nobody_the_labels_of_another(opened: Open) -> None:
    def lose_the_first_of_many(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
        labels, e_labels = plain(flux)
        return (labels[1:], e_labels[1:]) if len(flux) > 1 else (labels, e_labels)

    engine = Engine(lose_the_first_of_many)
    batcher = opened(engine, size=4)
    hold(batcher, engine)
    futures = submit(batcher, 1, 2, 3, 4)
    engine.go_on.set()
    assert_answered(futures, 1, 2, 3, 4)


def poisoned(error: BaseException, *poison: int) -> Answer:
    def answer(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
        if np.isin(flux[:, 0], poison).any():
            raise error
        return plain(flux)

    return answer


@pytest.mark.parametrize(
    "error",
    [ValueError("poison"), MemoryError("too large"), RuntimeError("CUDA error"), StopIteration()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("poison", [(0,), (5,), (7,), (2, 3), (0, 7), tuple(range(8))], ids=str)
def test_only_the_spectra_that_make_the_engine_raise_fail(
    opened: Open, error: Exception, poison: tuple[int, ...]
) -> None:
    engine = Engine(poisoned(error, *poison))
    batcher = opened(engine, size=8)
    hold(batcher, engine)
    futures = submit(batcher, *range(8))
    engine.go_on.set()
    for number, future in enumerate(futures):
        if number in poison:
            assert future.exception(LONG) is error
        else:
            assert_answered([future], number)
    assert_answered(submit(batcher, 50), 50)  # and the thread lives on


def test_halving_asks_for_few_batches(opened: Open) -> None:
    engine = Engine(poisoned(ValueError("poison"), 11))
    batcher = opened(engine, size=64)
    hold(batcher, engine)
    futures = submit(batcher, *range(64))
    engine.go_on.set()
    assert isinstance(futures[11].exception(LONG), ValueError)
    futures[-1].result(LONG)
    assert len(engine.batches[1:]) == 1 + 2 * 6  # the batch, then two halves, six times


def test_a_future_that_nobody_waits_for_any_more_does_not_stop_the_others(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=4)
    hold(batcher, engine)
    futures = submit(batcher, 1, 2, 3)
    assert futures[1].cancel()
    engine.go_on.set()
    assert_answered([futures[0], futures[2]], 1, 3)
    assert_answered(submit(batcher, 4), 4)


def test_close_finishes_what_waits(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=2)
    first = hold(batcher, engine)
    futures = submit(batcher, *range(5))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    engine.go_on.set()
    closing.join(LONG)
    assert not closing.is_alive()
    assert all(future.done() for future in futures)
    assert_answered([first, *futures], 999, *range(5))


def test_close_does_not_wait_for_a_batch_to_fill(opened: Open) -> None:
    batcher = opened(Engine(), size=10, wait=2 * LONG)
    futures = submit(batcher, 1, 2)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join(LONG)
    assert not closing.is_alive()
    assert_answered(futures, 1, 2)


def test_submitting_after_close_raises(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine)
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        submit(batcher, 1)
    assert engine.batches == []


def test_closing_twice_is_harmless(opened: Open) -> None:
    batcher = opened(Engine())
    batcher.close()
    batcher.close()

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.errors import FatalError, TransientError
from worker.inference import batching
from worker.inference.batching import InferredSpectrum, MicroBatcher
from worker.queues import Lane

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
        self, flux: NDArray[np.float32], mask_keys: Sequence[str]
    ) -> tuple[Floats, Floats]:
        assert flux.shape == (len(mask_keys), 3)
        self.batches.append(list(mask_keys))
        if self.held:
            self.started.set()
            assert self.go_on.wait(LONG)
        return self.answer(flux)


Open = Callable[..., MicroBatcher]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Makes micro-batchers that are closed when the test ends, however it ends."""
    with_engines: list[tuple[MicroBatcher, Engine]] = []

    def open_batcher(
        engine: Engine, *, size: int = 4, wait: float = 0.0, longest_call: float = LONG
    ) -> MicroBatcher:
        batcher = MicroBatcher(
            {"w": engine}, batch_size=size, batch_wait=wait, longest_call=longest_call
        )
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
    return batcher.submit(flux, [str(n) for n in numbers], lane, "w")


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


def test_a_batch_is_for_one_network_and_the_most_urgent_spectrum_chooses_it() -> None:
    first, second = Engine(), Engine()
    batcher = MicroBatcher({"a": first, "b": second}, batch_size=4, batch_wait=0, longest_call=LONG)
    try:
        flux = np.zeros((3, 3), np.float32)
        first.held = True
        futures = batcher.submit(flux[:1], ["held"], "bulk", "a")
        assert first.started.wait(LONG)
        futures += batcher.submit(flux, ["a1", "a2", "a3"], "bulk", "a")
        futures += batcher.submit(flux[:2], ["b1", "b2"], "bulk", "b")
        futures += batcher.submit(flux[:1], ["b live"], "live", "b")
        assert second.batches == [], "one device, one thread"
        first.go_on.set()
        for future in futures:
            future.result(LONG)
    finally:
        first.go_on.set()
        batcher.close()
    assert first.batches == [["held"], ["a1", "a2", "a3"]]
    assert second.batches == [["b live", "b1", "b2"]]


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
        batcher.submit(np.zeros((2, 3), np.float32), ["1"], "bulk", "w")
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
    [ValueError("poison"), RuntimeError("poison"), TimeoutError("poison"), StopIteration()],
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


def test_live_spectra_go_before_bulk_while_a_batch_is_halved(opened: Open) -> None:
    engine = Engine(poisoned(ValueError("poison"), 1, 10))
    batcher = opened(engine, size=4)
    hold(batcher, engine)
    futures = submit(batcher, 0, 1) + submit(batcher, 10, 11, lane="live")
    engine.go_on.set()
    batcher.wait_for(futures)
    assert engine.batches[2:] == [["10", "11"], ["10"], ["11"], ["0", "1"], ["0"], ["1"]]


@pytest.mark.parametrize("poison", [(0,), (2, 3), tuple(range(8))], ids=str)
def test_spectra_that_do_not_fit_into_memory_alone_are_to_be_tried_again(
    opened: Open, poison: tuple[int, ...]
) -> None:
    engine = Engine(poisoned(MemoryError("full"), *poison))
    batcher = opened(engine, size=8)
    hold(batcher, engine)
    futures = submit(batcher, *range(8))
    engine.go_on.set()
    for number, future in enumerate(futures):
        if number in poison:
            with pytest.raises(TransientError, match="not enough free memory"):
                future.result(LONG)
        else:
            assert_answered([future], number)
    assert_answered(submit(batcher, 50), 50)


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does(opened: Open) -> None:
    def small(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
        if len(flux) > 2:
            raise MemoryError
        return plain(flux)

    engine = Engine(small)
    batcher = opened(engine, size=8)
    hold(batcher, engine)
    futures = submit(batcher, *range(8))
    engine.go_on.set()
    assert_answered(futures, *range(8))
    assert [len(batch) for batch in engine.batches[1:]] == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize("error", [ValueError, MemoryError])
def test_the_memory_of_a_call_that_failed_is_free_before_the_next(
    opened: Open, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    arrays: list[weakref.ref[Any]] = []

    def allocate(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
        assert all(array() is None for array in arrays)
        large = flux.copy()
        arrays.append(weakref.ref(large))
        if len(flux) > 1 or 3 in flux:
            raise error
        return plain(large)

    monkeypatch.setattr(batching.logger, "disabled", True)  # pytest keeps what is logged
    batcher = opened(Engine(allocate), size=4)
    gc.disable()  # it would hide what is kept too long
    try:
        futures = submit(batcher, 3, 4, 5, 6) + submit(batcher, 7)
        batcher.wait_for(futures)
        assert_answered(futures[1:], 4, 5, 6, 7)
        assert isinstance(futures[0].exception(), ValueError | TransientError)
        assert len(arrays) > len(futures)
    finally:
        gc.enable()


def assert_ended(
    batcher: MicroBatcher, futures: Sequence[Future[InferredSpectrum]], *words: str
) -> None:
    """All futures and all later requests get an error of their own that says these words."""
    errors = [future.exception(LONG) for future in futures]
    with pytest.raises(FatalError) as refused:
        submit(batcher, 1)
    errors.append(refused.value)
    assert len(set(map(id, errors))) == len(errors)
    for error in errors:
        assert type(error) is FatalError
        assert all(word in str(error) for word in words)


def test_a_broken_device_ends_what_runs_what_waits_and_what_comes(opened: Open) -> None:
    engine = Engine(poisoned(FatalError("The device is broken."), 2))
    batcher = opened(engine, size=4)
    first = hold(batcher, engine)
    futures = submit(batcher, *range(6))
    assert futures[1].cancel()
    assert futures[5].cancel()
    engine.go_on.set()
    assert_answered([first], 999)
    assert_ended(batcher, [futures[number] for number in (0, 2, 3, 4)], "The device is broken.")
    assert futures[1].cancelled()
    assert futures[5].cancelled()
    assert engine.batches[1:] == [["0", "2", "3"]]
    batcher.close()


def test_a_device_that_breaks_while_a_batch_is_halved_keeps_what_has_its_answer(
    opened: Open,
) -> None:
    def break_down(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
        if len(flux) > 2:
            raise ValueError("poison")
        return poisoned(FatalError("The device is broken."), 3)(flux)

    engine = Engine(break_down)
    batcher = opened(engine, size=8)
    hold(batcher, engine)
    futures = submit(batcher, *range(8))
    engine.go_on.set()
    assert_answered(futures[:2], 0, 1)
    assert_ended(batcher, futures[2:], "The device is broken.")
    assert engine.batches[1:] == [list("01234567"), list("0123"), list("01"), list("23")]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt("now"), GeneratorExit()], ids=repr
)
def test_an_error_that_ends_the_thread_leaves_nobody_waiting(
    opened: Open, error: BaseException
) -> None:
    engine = Engine(poisoned(error, 2))
    batcher = opened(engine, size=2)
    hold(batcher, engine)
    futures = submit(batcher, *range(6))
    engine.go_on.set()
    assert_answered(futures[:2], 0, 1)
    assert_ended(batcher, futures[2:], "thread ended", repr(error), "this process stops")
    batcher.close()


def test_a_mistake_in_the_batcher_itself_leaves_nobody_waiting(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    batcher = opened(engine)
    first = hold(batcher, engine)
    futures = submit(batcher, 1, 2)

    def mistake() -> list[Any]:
        raise AttributeError("mistake")

    monkeypatch.setattr(batcher, "_next_batch", mistake)
    engine.go_on.set()
    assert_answered([first], 999)
    assert_ended(batcher, futures, "thread ended", "AttributeError('mistake')")


def test_a_stuck_device_ends_what_runs_what_waits_and_what_comes(opened: Open) -> None:
    engine = Engine()
    batcher = opened(engine, size=2, wait=0.01, longest_call=0.04)
    running = hold(batcher, engine)
    futures = submit(batcher, 1, 2, 3)
    with pytest.raises(FatalError, match=r"did not answer in 0\.05 s"):
        batcher.wait_for(futures)
    assert_ended(batcher, [running, *futures], "did not answer in 0.05 s", "this process stops")
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join(LONG)
    assert not closing.is_alive()  # though the engine has not returned
    engine.go_on.set()
    batcher._thread.join(LONG)
    assert not batcher._thread.is_alive()
    assert engine.batches == [["999"]]
    with pytest.raises(FatalError, match="did not answer"):
        submit(batcher, 4)


@pytest.mark.parametrize("ending", [0, 1, 2, 3])
def test_a_device_is_stuck_when_no_call_ends_however_long_one_waits(
    opened: Open, monkeypatch: pytest.MonkeyPatch, ending: int
) -> None:
    may_end = threading.Semaphore(0)

    def answer_when_told(flux: NDArray[np.float32]) -> tuple[Floats, Floats]:
        assert may_end.acquire(timeout=LONG)
        return plain(flux)

    batcher = opened(Engine(answer_when_told), size=1)
    futures = submit(batcher, 0, 1, 2)
    to_end = iter(futures[:ending])

    def long_wait(waited: Sequence[Future[InferredSpectrum]], timeout: float) -> Any:
        """What ``wait`` does when a call ends in its time, or none does."""
        assert timeout == LONG
        if (future := next(to_end, None)) is not None:
            may_end.release()
            future.result(LONG)
        return wait(waited, timeout=0)

    monkeypatch.setattr(batching, "wait", long_wait)
    if ending == 3:
        batcher.wait_for(futures)
        assert_answered(futures, 0, 1, 2)
        return
    with pytest.raises(FatalError, match="did not answer"):
        batcher.wait_for(futures)
    assert_answered(futures[:ending], *range(ending))
    assert_ended(batcher, futures[ending:], "did not answer")
    may_end.release()


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

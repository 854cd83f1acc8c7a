from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from worker.errors import YieldError
from worker.stages.admission import Admission

SECONDS = 30


def nobody() -> bool:
    return False


def somebody() -> bool:
    return True


@pytest.fixture
def admission() -> Admission:
    return Admission(threads=3)


@pytest.fixture
def bulk(admission: Admission) -> Iterator[ExitStack]:
    """Two bulk messages, which are as many as three threads allow."""
    with ExitStack() as served:
        for _ in range(2):
            served.enter_context(admission.bulk(somebody))
        yield served


@pytest.mark.usefixtures("bulk")
def test_bulk_leaves_the_last_thread_to_a_live_message_that_waits(admission: Admission) -> None:
    with pytest.raises(YieldError), admission.bulk(somebody):
        pass
    with admission.live(), admission.live():  # which never waits itself
        pass


def test_bulk_waits_for_its_turn_where_no_live_message_does(
    admission: Admission, bulk: ExitStack
) -> None:
    served = threading.Event()

    def serve() -> None:
        with admission.bulk(nobody):
            served.set()

    thread = threading.Thread(target=serve)
    thread.start()
    assert not served.wait(0.2)
    bulk.close()
    assert served.wait(SECONDS)
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_bulk_stands_back_while_a_live_message_is_served(admission: Admission) -> None:
    order: list[str] = []

    def serve() -> None:
        with admission.bulk(nobody):
            order.append("bulk")

    with admission.live():
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append("live")
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert order == ["live", "bulk"]


def test_a_steady_flow_of_live_messages_does_not_keep_bulk_for_ever(admission: Admission) -> None:
    with admission.live(), admission.bulk(nobody):
        pass


def test_one_thread_serves_both() -> None:
    single = Admission(threads=1)
    with single.bulk(somebody):
        pass
    with single.live():
        pass

"""The queue of other threads' calls: its order, its bound, its end, and the outcome for a thread that waits."""

from __future__ import annotations

import signal
import threading

import pytest

from rawws.errors import NotServing, PublishError, PublishUnsure, QueueFull
from rawws.relay import thread_queue
from rawws.relay.thread_queue import Gate, Outcome, ThreadQueue
from tests.serving.machine import PATIENCE_S


class Sized:
    """A call that takes some bytes."""

    def __init__(self, held_bytes: int) -> None:
        self.held_bytes = held_bytes


asked = threading.Event()  # whether a thread may wait


def may_wait() -> bool:
    asked.set()
    return True


def never() -> bool:
    raise AssertionError("this must not be asked")


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_queue, "PATIENCE_S", 0.01)


def test_calls_are_taken_in_their_order_and_the_loop_is_woken_once() -> None:
    woken: list[int] = []
    queue, gate = ThreadQueue(lambda: woken.append(1)), Gate()
    calls = [Sized(each) for each in (5, 3, 8)]
    for call in calls:
        queue.put(call, gate, never)
    assert (woken, len(queue), queue.waiting_bytes) == ([1], 3, 16)
    assert list(queue.take()) == calls
    assert (len(queue), queue.waiting_bytes) == (0, 16)
    queue.release(16)
    assert queue.waiting_bytes == 0
    queue.put(calls[0], gate, never)
    assert woken == [1, 1]


def test_a_ctrl_c_before_the_loop_is_woken_has_the_next_call_wake_it() -> None:
    woken: list[int] = []

    def wake() -> None:
        woken.append(1)
        if len(woken) == 1:
            raise KeyboardInterrupt

    queue, gate = ThreadQueue(wake), Gate()
    with pytest.raises(KeyboardInterrupt):
        queue.put(Sized(1), gate, never)
    queue.put(Sized(1), gate, never)
    assert (woken, len(queue)) == ([1, 1], 2)


def test_a_call_of_any_size_is_taken_while_the_queue_is_not_full() -> None:
    queue, gate = ThreadQueue(lambda: None, max_bytes=10), Gate()
    queue.put(Sized(9), gate, never)
    queue.put(Sized(1000), gate, never)
    with pytest.raises(QueueFull, match=r"^1009 bytes that other threads publish wait .* an event loop can't wait"):
        queue.put(Sized(1), gate, lambda: False)
    assert len(queue.take()) == 2


def test_a_thread_waits_for_space() -> None:
    queue, gate = ThreadQueue(lambda: None, max_bytes=10), Gate()
    queue.put(Sized(10), gate, never)
    asked.clear()
    thread = threading.Thread(target=queue.put, args=[Sized(4), gate, may_wait])
    thread.start()
    assert asked.wait(PATIENCE_S)
    queue.take()
    assert len(queue) == 0
    queue.release(10)
    thread.join(PATIENCE_S)
    assert (len(queue), queue.waiting_bytes) == (1, 4)


@pytest.mark.usefixtures("short_patience")
def test_a_thread_does_not_wait_for_ever_for_space() -> None:
    queue, gate = ThreadQueue(lambda: None, max_bytes=10), Gate()
    queue.put(Sized(10), gate, never)
    with pytest.raises(QueueFull, match=r"which has done nothing for 0\.01 s: something blocks it"):
        queue.put(Sized(1), gate, lambda: True)


def test_a_queue_that_has_ended_takes_nothing_and_keeps_what_it_had() -> None:
    queue, gate = ThreadQueue(lambda: None), Gate()
    queue.put(Sized(1), gate, never)
    queue.end("the loop has ended")
    with pytest.raises(NotServing, match=r"^the loop has ended$"):
        queue.put(Sized(1), gate, never)
    assert len(queue.take()) == 1


def test_the_end_wakes_a_thread_that_waits_for_space() -> None:
    queue, gate = ThreadQueue(lambda: None, max_bytes=1), Gate()
    queue.put(Sized(1), gate, never)
    asked.clear()
    errors: list[Exception] = []

    def put() -> None:
        try:
            queue.put(Sized(1), gate, may_wait)
        except NotServing as error:
            errors.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    assert asked.wait(PATIENCE_S)
    queue.end("the loop has ended")
    thread.join(PATIENCE_S)
    assert [str(error) for error in errors] == ["the loop has ended"]


def test_a_gate_is_shut_for_one_hub_alone() -> None:
    queue, one, other = ThreadQueue(lambda: None), Gate(), Gate()
    queue.shut(one, "the server has ended")
    with pytest.raises(NotServing, match=r"^the server has ended$"):
        queue.put(Sized(1), one, never)
    queue.put(Sized(1), other, never)
    assert len(queue) == 1


def test_a_forked_child_takes_nothing_even_if_the_lock_is_held() -> None:
    queue, gate = ThreadQueue(lambda: None), Gate()
    queue.put(Sized(1), gate, never)
    with queue._changed:  # by a thread that the child doesn't have
        thread = threading.Thread(target=queue.end_in_child, args=["this is a fork"])
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert len(queue) == 0
    with pytest.raises(NotServing, match=r"^this is a fork$"):
        queue.put(Sized(1), gate, never)


def test_a_signal_handler_may_interrupt_a_call_of_its_own_thread() -> None:
    queue, gate = ThreadQueue(lambda: None), Gate()
    before = signal.signal(signal.SIGUSR1, lambda *_: queue.put(Sized(1), gate, never))
    try:
        with queue._changed:
            signal.raise_signal(signal.SIGUSR1)
            assert len(queue) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


# The outcome


def test_an_outcome_is_a_result_or_an_error() -> None:
    one, other = Outcome(), Outcome()
    assert one.begin()
    one.succeed("an id")
    assert one.wait() == "an id"
    other.fail(NotServing("the end"))
    with pytest.raises(NotServing, match=r"^the end$"):
        other.wait()


@pytest.mark.usefixtures("short_patience")
def test_a_call_that_is_given_up_must_not_be_carried_out() -> None:
    outcome = Outcome()
    with pytest.raises(PublishError, match=r"^nothing was published, since the call has waited for 0\.01 s") as caught:
        outcome.wait()
    assert type(caught.value) is PublishError
    assert not outcome.begin()


@pytest.mark.usefixtures("short_patience")
def test_a_call_that_has_begun_may_have_been_carried_out() -> None:
    outcome = Outcome()
    assert outcome.begin()
    with pytest.raises(PublishUnsure, match=r"^it isn't known whether the message was published"):
        outcome.wait()

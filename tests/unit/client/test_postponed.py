"""Deletes that no server could confirm are tried again."""

from __future__ import annotations

import gc
import threading

import pytest

from cachebackend import threads
from cachebackend.client import postponed
from cachebackend.client.postponed import PostponedDeletes


class Node:
    """Counts its replays; the last one has deleted all keys."""

    def __init__(self, replays: int) -> None:
        self.left = replays

    def request_replay(self) -> None:
        self.left -= 1


def test_they_are_tried_again_until_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt comes after a pause."""
    node, pauses = Node(3), list[float]()
    monkeypatch.setattr(threads, "start_thread", threading.Thread.run)
    deletes = PostponedDeletes(lambda: bool(node.left), lambda: [node])
    deletes._pause = pauses.append
    deletes.retry_soon()
    assert (node.left, pauses) == (0, [postponed.RETRY_SECONDS] * 4)


def test_they_are_tried_again_if_no_server_has_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left, although no node can get them now."""
    deletes, left = PostponedDeletes(lambda: True, list), [True, True, False]
    monkeypatch.setattr(threads, "start_thread", threading.Thread.run)
    pauses: list[float] = []
    deletes._pause, deletes._has_some = pauses.append, lambda: left.pop(0)
    deletes.retry_soon()
    assert pauses == [postponed.RETRY_SECONDS] * 3


def test_one_attempt_is_planned_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many deletes are postponed."""
    started: list[threading.Thread] = []
    go_on = threading.Event()

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        thread.start()

    monkeypatch.setattr(threads, "start_thread", start)
    deletes = PostponedDeletes(lambda: False, list)
    deletes._pause = lambda _: go_on.wait(30)
    for _ in range(3):
        deletes.retry_soon()
    go_on.set()
    for thread in started:
        thread.join()
    assert len(started) == 1


def test_a_process_that_can_start_no_thread_tries_again_with_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Postponing another delete does not raise an error."""

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    deletes = PostponedDeletes(lambda: False, list)
    monkeypatch.setattr(threads, "start_thread", refuse)
    deletes.retry_soon()
    monkeypatch.setattr(threads, "start_thread", threading.Thread.run)
    pauses: list[float] = []
    deletes._pause = pauses.append
    deletes.retry_soon()
    assert pauses == [postponed.RETRY_SECONDS]


def test_a_thread_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may not be able to start another one, and a delete that it has planned has its own."""
    node = Node(3)
    deletes = PostponedDeletes(lambda: True, lambda: [node])
    assert deletes.retry()
    assert deletes._thread is threading.current_thread()

    def postpone_another() -> list[Node]:
        deletes.retry_soon()
        return [node]

    monkeypatch.setattr(threads, "start_thread", lambda _: None)
    deletes._holders = postpone_another
    assert not deletes.retry()


def test_a_forked_child_tries_those_of_its_parent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent may end without that."""
    started: list[threading.Thread] = []
    monkeypatch.setattr(threads, "start_thread", started.append)

    def read_topology() -> list[Node]:
        raise AssertionError

    deletes = PostponedDeletes(lambda: False, read_topology)
    deletes.after_fork()
    assert started == []
    deletes._has_some = lambda: True
    deletes._thread = threading.current_thread()  # one of the parent
    deletes.after_fork()
    assert len(started) == 1


def test_a_client_that_is_not_used_any_more_is_not_kept() -> None:
    """Its attempt ends without it."""
    node, go_on = Node(1), threading.Event()
    deletes = PostponedDeletes(lambda: True, lambda: [node])
    deletes._pause = lambda _: go_on.wait(30)
    deletes.retry_soon()
    thread = deletes._thread
    assert thread is not None
    del deletes
    gc.collect()
    go_on.set()
    thread.join()
    assert node.left == 1

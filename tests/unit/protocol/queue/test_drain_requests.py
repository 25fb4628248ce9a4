"""Requests for drains: one for each partition at a time, and none for ever."""

from __future__ import annotations

from cachebackend.protocol.queue.drain_requests import begin_drain, pending_requests, request_drains
from cachebackend.protocol.queue.partition import Partition
from tests.unit.protocol.stepping import DOWN, queue_of, step

METER, OTHER, THIRD = (Partition("shop.meter", number) for number in range(3))
QUEUE = queue_of("a")


def test_a_pending_request_is_not_repeated() -> None:
    """It expires after ten flush intervals by the node's clock; a node without an answer does not matter."""
    requested, [requests] = step(request_drains(QUEUE, [METER, OTHER, THIRD]), [b"OK", None, DOWN])
    assert requested == [METER, THIRD]
    assert requests[0] == (0, (b"SET", b"wb:{shop.meter:0}:request", b"1", b"NX", b"PX", b"10000"))
    assert step(request_drains(QUEUE, [])) == ([], [])


def test_a_drain_that_begins_ends_its_request() -> None:
    """Later writes get another one."""
    _, requests = step(begin_drain(QUEUE, METER), [1])
    assert requests == [[(0, (b"DEL", b"wb:{shop.meter:0}:request"))]]


def test_requests_that_are_pending_are_found() -> None:
    """A node that does not answer has none."""
    pending, _ = step(pending_requests(QUEUE, [METER, OTHER, THIRD]), [1, 0, DOWN])
    assert pending == {METER}
    assert step(pending_requests(QUEUE, [])) == (set(), [])

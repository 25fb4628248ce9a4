"""WAIT comes after promises, and its reply decides whether they are kept."""

from __future__ import annotations

from cachebackend.effects import Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.node.replicas import ReplicaWait
from cachebackend.protocol.ring.node_deletes import delete_command

GET, DELETE = (b"GET", b"a"), delete_command([b"a"])
WAIT, SHORT = (b"WAIT", b"1", b"125"), (b"WAIT", b"1", b"1")


def test_only_promises_wait() -> None:
    """A read needs no replica."""
    wait = ReplicaWait(1, 0.25)
    assert wait.added([GET]) == [GET]
    assert wait.settled([GET], [b"1"]) == [b"1"]
    assert wait.added([GET, DELETE]) == [GET, DELETE, WAIT]


def test_a_promise_that_a_replica_has_is_kept() -> None:
    """Its reply is the node's."""
    wait = ReplicaWait(1, 0.25)
    assert wait.settled([GET, DELETE], [b"1", 1, 1]) == [b"1", 1]


def test_a_promise_without_replica_has_failed() -> None:
    """The other replies are the node's, and the node is not ejected; the next call waits only briefly."""
    wait = ReplicaWait(1, 0.25)
    first, second = wait.settled([GET, DELETE], [b"1", 1, 0])
    assert first == b"1"
    assert isinstance(second, NodeUnavailableError)
    assert (second.ejects, second.was_sent) == (False, True)
    assert "0 of 1 replicas" in str(second)
    assert wait.added([DELETE]) == [DELETE, SHORT]
    wait.settled([DELETE], [1, 1])
    assert wait.added([DELETE]) == [DELETE, WAIT]


def test_an_error_of_wait_is_the_reply_to_the_promise() -> None:
    """An error of the promise itself stays."""
    wait, refused = ReplicaWait(1, 0.25), NodeReplyError("NOSCRIPT")
    error: Reply = NodeReplyError("ERR WAIT cannot be used with replica instances")
    assert wait.settled([DELETE, DELETE], [1, refused, error]) == [error, refused]

"""Deletes at named nodes."""

from __future__ import annotations

from cachebackend.errors import NodeReplyError
from cachebackend.protocol.ring.node_deletes import delete_at, delete_command
from tests.unit.protocol.stepping import DOWN, context_of, step


def test_a_delete_is_one_script_for_all_keys_of_a_node() -> None:
    """The script does not delete a quarantine, which DEL would."""
    call = delete_command([b"a", b"b"])
    assert (call.script.name, call[2:]) == ("delete", (b"2", b"a", b"b"))


def test_nothing_is_sent_for_no_keys() -> None:
    """A write outside of a ring change costs no extra round trip."""
    assert step(delete_at(context_of("a"), {}, in_outbox=False)) == ([], [])


def test_keys_that_a_node_did_not_confirm_are_returned_and_recorded() -> None:
    """Whether it did not answer or refused the command."""
    context = context_of("a", "b", "c")
    groups = {0: [b"k"], 1: [b"l", b"m"], 2: [b"n"]}
    unconfirmed, [requests] = step(
        delete_at(context, groups, in_outbox=False), [1, DOWN, NodeReplyError("OOM no memory")]
    )
    assert requests == [(0, ("delete", b"k")), (1, ("delete", b"l", b"m")), (2, ("delete", b"n"))]
    assert unconfirmed == [b"l", b"m", b"n"]
    assert [context.missed.count(node) for node in range(3)] == [0, 2, 1]
    assert context.counters.total().deletes_missed == 3

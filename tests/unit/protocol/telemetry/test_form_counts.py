"""Counts of forms of queries, stored on two nodes."""

from __future__ import annotations

from cachebackend.errors import NodeReplyError
from cachebackend.protocol.telemetry.form_counts import (
    FormCount,
    StoredForms,
    add_form_counts,
    read_form_counts,
)
from tests.unit.protocol.stepping import DOWN, context_of, key_at, step

COUNT = FormCount("ab", "cached", "what it is", "hits", 3)


def test_counts_are_added_at_two_nodes_with_what_the_form_is() -> None:
    """And with the form to count under if the hash is full."""
    context = context_of("a", "b", "c")
    key = key_at(context, 2)
    error, [requests] = step(add_form_counts(context, key, [COUNT], 60), [1, DOWN])
    assert error is None
    call = ("count_forms", key, b"60", b"800", "ab", "cached", "what it is", "hits", b"3")
    assert requests == [(2, call), (0, call)]


def test_counts_that_every_node_refuses_are_an_error() -> None:
    """The caller publishes them later."""
    refused = NodeReplyError("OOM command not allowed")
    assert step(add_form_counts(context_of("a"), b"k", [COUNT], 60), [refused])[0] is refused


def test_the_higher_counts_and_all_descriptions_are_returned() -> None:
    """A copy lacks what was added while its node was down."""
    one = [b"#", b"1", b"ab", b"what it is", b"ab.hits", b"5", b"\xff", b"1"]
    two = [b"#", b"2", b"cd", b"another", b"ab.hits", b"7", b"cd.hits", b"x"]
    [stored, failed], _ = step(read_form_counts(context_of("a", "b"), [b"k", b"l"]), [one, two, DOWN, DOWN])
    assert stored == StoredForms({"ab.hits": 7}, {"ab": b"what it is", "cd": b"another"})
    assert failed is DOWN

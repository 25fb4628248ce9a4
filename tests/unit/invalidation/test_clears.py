"""Which nodes are cleared because they missed more keys than are recorded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.backend.keys import change_key, pattern_key
from cachebackend.invalidation import deletes
from cachebackend.invalidation.clears import nodes_to_clear

FULL, COUNTED = 0, 1
ROW, OTHER_ROW, OTHER_TAG = b"row of the full node", b"row of the other", b"tag of the other\xff"


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes; the first has missed more keys than are recorded one by one."""
    others = {OTHER_ROW, OTHER_TAG}
    missed = SimpleNamespace(
        count=lambda node: None if node == FULL else 1,
        has_missed=lambda node, key: node == COUNTED and key in others,
    )
    context = SimpleNamespace(missed=missed, may_hold=lambda node, key: node == FULL and key not in others)
    client = SimpleNamespace(context=context, nodes=[SimpleNamespace(endpoint=name) for name in ("a", "b")])
    monkeypatch.setattr(deletes, "ring_cache_of", lambda _: SimpleNamespace(client=client))


def test_a_node_with_too_many_missed_keys_is_cleared_in_their_place() -> None:
    """The keys of other nodes stay pending one by one."""
    assert nodes_to_clear("default", {ROW, OTHER_ROW}) == (["a"], {OTHER_ROW})
    assert nodes_to_clear("default", set()) == ([], set())


def test_a_pattern_stays_pending() -> None:
    """Each node has keys of it."""
    pattern = pattern_key(b"p:*", is_tag=False)
    assert nodes_to_clear("default", {ROW, pattern}) == (["a"], {pattern})


def test_a_change_stays_pending_with_a_tag_that_it_makes_wrong() -> None:
    """Its own bytes belong to no node. Without such a tag, all that it makes wrong is on cleared nodes."""
    change = change_key(b"rows")
    assert nodes_to_clear("default", {ROW, OTHER_TAG, change}) == (["a"], {OTHER_TAG, change})
    assert nodes_to_clear("default", {ROW, change}) == (["a"], set())

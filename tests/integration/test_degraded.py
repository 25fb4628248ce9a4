"""The result of each method while its key's node is ejected: the table of docs/failures.md."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.db import connections
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.errors import NodeUnavailableError
from cachebackend.models import OutboxRow
from cachebackend.node import Node

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: The tag has the owner of the first key, in the ring of three nodes and in a cluster of three primaries.
GONE, HERE, TAG = "gone", "here", "feed"
RAISES = NodeUnavailableError


def load_many(names: Any) -> dict[Any, str]:
    return dict.fromkeys(names, "loaded")


#: The arguments, the result with ``on_node_failure="miss"``, and the result with ``"raise"``.
TABLE: dict[str, tuple[tuple[Any, ...], Any, Any]] = {
    "get": ((GONE, "default"), "default", RAISES),
    "get_many": (([GONE, HERE],), {HERE: 1}, RAISES),
    "has_key": ((GONE,), False, RAISES),
    "set": ((GONE, 2), False, RAISES),
    "ttl": ((GONE,), 0, RAISES),
    "persist": ((GONE,), False, RAISES),
    "keys": ((), [HERE], RAISES),
    "add": ((GONE, 2), False, RAISES),
    "touch": ((GONE,), False, RAISES),
    "expire": ((GONE, 0), False, RAISES),
    "set_many": (({GONE: 2, HERE: 2},), [GONE], RAISES),
    "incr": ((GONE,), ValueError, RAISES),
    "decr": ((GONE,), ValueError, RAISES),
    "incr_version": ((GONE,), ValueError, RAISES),
    "delete": ((GONE,), False, RAISES),
    "delete_many": (([GONE, HERE],), None, RAISES),
    "make_stale": ((GONE, 10), False, RAISES),
    "get_or_set": ((GONE, lambda: "loaded"), "loaded", RAISES),
    "get_or_set_many": (([GONE, HERE], load_many), {GONE: "loaded", HERE: 1}, RAISES),
    "invalidate_tags": ((TAG,), None, RAISES),
    "clear": ((), None, RAISES),
}
#: The methods whose deletes the node has missed, and that must be replayed to it.
MISSED = {"set", "set_many", "expire", "delete", "delete_many", "make_stale", "invalidate_tags"}


@pytest.fixture(params=["miss", "raise"])
def policy(request: pytest.FixtureRequest) -> str:
    """``on_node_failure``."""
    return str(request.param)


@pytest.fixture
def cache(policy: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RingCache]:
    """A cache with a key on each of two nodes; the first node is ejected, and its probes never run."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"on_node_failure": policy}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        cache = caches.create_connection("default")
        assert isinstance(cache, RingCache)
        cache.set_many({GONE: 1, HERE: 1}, None)
        client = cache.client
        gone, here, tag = (
            client.ring.owner(key)
            for key in (cache.key_bytes(GONE), cache.key_bytes(HERE), cache.tag_bytes(TAG))
        )
        assert gone == tag != here
        breaker = client.nodes[gone].breaker
        assert breaker is not None
        breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
        yield cache


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_result_of_a_method_is_the_one_in_the_docs(
    cache: RingCache, policy: str, name: str, way: str
) -> None:
    """With each policy, sync and async. Missed deletes are in the outbox with every result."""
    arguments, with_miss, with_raise = TABLE[name]
    expected = with_miss if policy == "miss" else with_raise
    method = getattr(cache, name) if way == "sync" else partial(_run_async, getattr(cache, f"a{name}"))
    if isinstance(expected, type):
        with pytest.raises(expected):
            method(*arguments)
    else:
        assert method(*arguments) == expected
    if name in MISSED:
        assert OutboxRow.objects.exists()
    missed = cache.client.context.missed
    counts = [missed.count(node) for node in range(len(cache.client.nodes))]
    assert counts.count(0) == (len(counts) - 1 if name in MISSED | {"clear"} else len(counts))


def _run_async(method: Callable[..., Any], *arguments: Any) -> Any:
    async def run() -> Any:
        try:
            return await method(*arguments)
        finally:
            await sync_to_async(connections.close_all)()

    return asyncio.run(run())

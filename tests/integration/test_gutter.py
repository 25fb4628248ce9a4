"""The gutter: it stores the keys of an ejected node for a short time, and never serves a stale value."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from cachebackend import CachedManager, RingCache
from cachebackend.errors import ConfigurationError, NodeUnavailableError
from cachebackend.node import Node
from cachebackend.options import RingOptions
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.fix_services import close_breakers

pytestmark = [
    pytest.mark.ring_of_nodes,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes"),
]
KEY, TIMEOUT_MS = "gone", 10_000


class Spared:
    """A cache over a ring of two nodes, with a third node as its gutter.

    ``down`` opens the breaker of a key's owner, as in a process that has ejected it; ``up`` closes
    the breakers, as in a process that reaches every node.
    """

    def __init__(self, cache: RingCache) -> None:
        self.cache = cache
        self.client = cache.client

    def down(self, key: bytes) -> None:
        breaker = self.client.nodes[self.client.ring.owner(key)].breaker
        assert breaker is not None
        breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)

    def up(self) -> None:
        close_breakers(self.client.nodes)

    def in_gutter(self, *command: Any) -> Any:
        return self.client.nodes[2].call(command)


@pytest.fixture
def spared(settings: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spared]:
    """The default alias with a gutter; probes never run."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    *ring, spare = services.ring_urls
    block = settings.CACHES["default"] | {"LOCATION": ring, "OPTIONS": {"gutter": [spare]}}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches["default"]
        assert isinstance(cache, RingCache)
        yield Spared(cache)


def test_a_value_loaded_while_the_owner_is_ejected_is_stored_for_a_short_time(spared: Spared) -> None:
    """All readers share one load, with any timeout, and the owner stores nothing of it."""
    key_bytes, loads = spared.cache.key_bytes(KEY), []
    spared.down(key_bytes)
    for timeout in (None, 300):
        loads.clear()
        for _ in range(3):
            assert spared.cache.get_or_set(KEY, lambda: loads.append(1) or "loaded", timeout) == "loaded"
        assert len(loads) == 1
        assert 0 < spared.in_gutter(b"PTTL", key_bytes) <= TIMEOUT_MS
        assert asyncio.run(spared.cache.aget(KEY)) == spared.cache.get(KEY) == "loaded"
        spared.cache.delete(KEY)
    spared.up()
    assert spared.cache.get(KEY) is None


def test_a_value_set_while_the_owner_is_ejected_is_stored_for_a_short_time(spared: Spared) -> None:
    """One key or many; a delete of the old value is recorded as missed by the owner."""
    names = [f"k{number}" for number in range(20)]
    spared.cache.set_many(dict.fromkeys(names, "old"), None)
    key_bytes = spared.cache.key_bytes(names[0])
    spared.down(key_bytes)
    assert spared.cache.get_many(names) != dict.fromkeys(names, "old")
    assert spared.cache.set_many(dict.fromkeys(names, "new"), None) == []
    spared.cache.set(names[0], "newest", None)
    assert spared.cache.get_many(names) == dict.fromkeys(names, "new") | {names[0]: "newest"}
    assert 0 < spared.in_gutter(b"PTTL", key_bytes) <= TIMEOUT_MS
    owner = spared.client.ring.owner(key_bytes)
    missed = [n for n in names if spared.client.ring.owner(spared.cache.key_bytes(n)) == owner]
    assert spared.client.context.missed.count(owner) == len(missed)


@pytest.mark.parametrize("way", ["delete", "delete_many", "touch", "set", "incr", "clear", "invalidate"])
def test_a_write_by_a_process_that_reaches_the_owner_is_deleted_in_the_gutter(
    spared: Spared, way: str
) -> None:
    """A value that another process stored there is not served when the owner is ejected again."""
    article = Article.objects.create(slug="s", title="old")
    key = Article.cached.keys_of([{"pk": article.pk}], "default")[0] if way == "invalidate" else None
    key_bytes = spared.cache.key_bytes(KEY) if key is None else key
    if way == "incr":
        spared.cache.set(KEY, 5)
    spared.down(key_bytes)
    if way == "invalidate":
        assert Article.cached.get(pk=article.pk).title == "old"
    else:
        spared.cache.set(KEY, 5)
    assert spared.in_gutter(b"EXISTS", key_bytes) == 1
    spared.up()
    if way == "invalidate":
        Article.objects.filter(pk=article.pk).update(title="new")
    elif way == "clear":
        spared.cache.clear()
    else:
        argument: Any = {"set": (KEY, 6), "touch": (KEY, 0), "delete_many": ([KEY],)}.get(way, (KEY,))
        getattr(spared.cache, way)(*argument)
    assert spared.in_gutter(b"EXISTS", key_bytes) == 0
    spared.down(key_bytes)
    if way == "invalidate":
        assert Article.cached.get(pk=article.pk).title == "new"
    else:
        assert spared.cache.get(KEY) is None


def test_a_load_that_a_write_overtook_is_not_stored_in_the_gutter(spared: Spared) -> None:
    """The writer reaches the owner, and its delete in the gutter removes the reader's lease."""
    key_bytes = spared.cache.key_bytes(KEY)

    def load() -> str:
        spared.up()
        spared.cache.delete(KEY)
        spared.down(key_bytes)
        return "old"

    spared.down(key_bytes)
    assert spared.cache.get_or_set(KEY, load) == "old"
    assert spared.cache.get(KEY) is None


def test_tags_invalidate_values_in_the_gutter(spared: Spared) -> None:
    """The tag is invalidated by a process that reaches its owner."""
    key_bytes, tag = spared.cache.key_bytes(KEY), spared.cache.tag_bytes("mark")
    for key in (key_bytes, tag):
        spared.down(key)
    assert spared.cache.get_or_set(KEY, lambda: 1, tags=["mark"]) == 1
    assert spared.cache.get_or_set(KEY, lambda: 2, tags=["mark"]) == 1
    spared.up()
    spared.cache.invalidate_tags("mark")
    for key in (key_bytes, tag):
        spared.down(key)
    assert spared.cache.get_or_set(KEY, lambda: 3, tags=["mark"]) == 3


def test_strict_rows_are_never_stored_in_the_gutter(spared: Spared, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are loaded at each read, because no quarantine guards the gutter."""
    cached: CachedManager[Article] = Article.cached
    monkeypatch.setattr(cached, "is_strict", True)
    article = Article.objects.create(slug="s", title="t")
    [key] = cached.keys_of([{"pk": article.pk}], "default")
    spared.down(key)
    assert cached.get(pk=article.pk) == article
    assert cached.in_bulk([article.pk]) == {article.pk: article}
    assert spared.in_gutter(b"DBSIZE") == 0


def test_a_gutter_that_is_ejected_too_costs_only_hits(spared: Spared) -> None:
    """Writes succeed; the deletes that it missed are recorded, to be replayed when it is back."""
    key_bytes = spared.cache.key_bytes(KEY)
    spared.down(key_bytes)
    breaker = spared.client.nodes[2].breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    assert spared.cache.get_or_set(KEY, lambda: "loaded") == "loaded"
    assert spared.cache.get(KEY) is None
    spared.cache.delete(KEY)
    assert spared.client.context.missed.count(2) == 1


@pytest.mark.parametrize("spare", ["redis://a:1?name=x", "redis://c:1?name=a", "redis://b:1?name=y"])
def test_a_node_of_the_ring_cannot_be_in_the_gutter(spare: str) -> None:
    """Neither a node of the same name, nor one of the same address, nor a node of the new ring."""
    options = {"gutter": [spare], "joining": ["redis://a:1?name=a", "redis://b:1?name=b"]}
    with pytest.raises(
        ConfigurationError, match="is a node of the ring; the gutter's nodes must be spare ones"
    ):
        RingOptions.read("redis://a:1?name=a", options, "CACHES['default']")

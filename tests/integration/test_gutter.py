"""The gutter: it takes the keys of a node that is ejected, for a short time, and nothing in it is stale."""

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

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes"),
]
KEY, TIMEOUT_MS = "gone", 10_000


class Spared:
    """A cache over a ring of two nodes with a third for its gutter.

    ``down`` and ``up`` make it a process whose breaker is open for the owner of a key, or one
    whose breaker is not.
    """

    def __init__(self, cache: RingCache) -> None:
        self.cache = cache
        self.client = cache.client

    def down(self, key: bytes) -> None:
        breaker = self.client.nodes[self.client.ring.owner(key)].breaker
        assert breaker is not None
        breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)

    def up(self) -> None:
        for node in self.client.nodes:
            assert node.breaker is not None
            node.breaker.close()

    def in_gutter(self, *command: Any) -> Any:
        return self.client.nodes[2].call(command)


@pytest.fixture
def spared(settings: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spared]:
    """The default alias so, and no probes."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    *ring, spare = services.ring_urls
    block = settings.CACHES["default"] | {"LOCATION": ring, "OPTIONS": {"gutter": [spare]}}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches["default"]
        assert isinstance(cache, RingCache)
        yield Spared(cache)


def test_what_is_loaded_meanwhile_is_kept_for_a_while(spared: Spared) -> None:
    """One load for all readers, whatever the timeout; and none of it at the owner."""
    made, loads = spared.cache.key_bytes(KEY), []
    spared.down(made)
    for timeout in (None, 300):
        loads.clear()
        for _ in range(3):
            assert spared.cache.get_or_set(KEY, lambda: loads.append(1) or "loaded", timeout) == "loaded"
        assert len(loads) == 1
        assert 0 < spared.in_gutter(b"PTTL", made) <= TIMEOUT_MS
        assert asyncio.run(spared.cache.aget(KEY)) == spared.cache.get(KEY) == "loaded"
        spared.cache.delete(KEY)
    spared.up()
    assert spared.cache.get(KEY) is None


def test_what_is_set_meanwhile_is_kept_for_a_while(spared: Spared) -> None:
    """One key or many; the owner is owed a delete of what may stand there."""
    names = [f"k{number}" for number in range(20)]
    spared.cache.set_many(dict.fromkeys(names, "old"), None)
    made = spared.cache.key_bytes(names[0])
    spared.down(made)
    assert spared.cache.get_many(names) != dict.fromkeys(names, "old")
    assert spared.cache.set_many(dict.fromkeys(names, "new"), None) == []
    spared.cache.set(names[0], "newest", None)
    assert spared.cache.get_many(names) == dict.fromkeys(names, "new") | {names[0]: "newest"}
    assert 0 < spared.in_gutter(b"PTTL", made) <= TIMEOUT_MS
    owner = spared.client.ring.owner(made)
    missed = [n for n in names if spared.client.ring.owner(spared.cache.key_bytes(n)) == owner]
    assert spared.client.context.missed.count(owner) == len(missed)


@pytest.mark.parametrize("way", ["delete", "delete_many", "touch", "set", "incr", "clear", "invalidate"])
def test_a_write_of_a_process_that_sees_the_owner_reaches_the_gutter(spared: Spared, way: str) -> None:
    """What another process put there is gone, and not found there when the owner is away again."""
    article = Article.objects.create(slug="s", title="old")
    key = Article.cached.keys_of([{"pk": article.pk}])[0] if way == "invalidate" else None
    made = spared.cache.key_bytes(KEY) if key is None else key
    if way == "incr":
        spared.cache.set(KEY, 5)
    spared.down(made)
    if way == "invalidate":
        assert Article.cached.get(pk=article.pk).title == "old"
    else:
        spared.cache.set(KEY, 5)
    assert spared.in_gutter(b"EXISTS", made) == 1
    spared.up()
    if way == "invalidate":
        Article.objects.filter(pk=article.pk).update(title="new")
    elif way == "clear":
        spared.cache.clear()
    else:
        argument: Any = {"set": (KEY, 6), "touch": (KEY, 0), "delete_many": ([KEY],)}.get(way, (KEY,))
        getattr(spared.cache, way)(*argument)
    assert spared.in_gutter(b"EXISTS", made) == 0
    spared.down(made)
    if way == "invalidate":
        assert Article.cached.get(pk=article.pk).title == "new"
    else:
        assert spared.cache.get(KEY) is None


def test_a_load_that_a_write_overtook_is_not_kept_there(spared: Spared) -> None:
    """The writer sees the owner, and takes the reader's lease in the gutter away."""
    made = spared.cache.key_bytes(KEY)

    def load() -> str:
        spared.up()
        spared.cache.delete(KEY)
        spared.down(made)
        return "old"

    spared.down(made)
    assert spared.cache.get_or_set(KEY, load) == "old"
    assert spared.cache.get(KEY) is None


def test_tags_vouch_for_what_is_there(spared: Spared) -> None:
    """Invalidated by a process that sees the owner of the tag."""
    made, tag = spared.cache.key_bytes(KEY), spared.cache.tag_bytes("mark")
    for key in (made, tag):
        spared.down(key)
    assert spared.cache.get_or_set(KEY, lambda: 1, tags=["mark"]) == 1
    assert spared.cache.get_or_set(KEY, lambda: 2, tags=["mark"]) == 1
    spared.up()
    spared.cache.invalidate_tags("mark")
    for key in (made, tag):
        spared.down(key)
    assert spared.cache.get_or_set(KEY, lambda: 3, tags=["mark"]) == 3


def test_strict_rows_are_never_there(spared: Spared, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are loaded each time, for no quarantine guards the gutter."""
    cached: CachedManager[Article] = Article.cached
    monkeypatch.setattr(cached, "is_strict", True)
    article = Article.objects.create(slug="s", title="t")
    [key] = cached.keys_of([{"pk": article.pk}])
    spared.down(key)
    assert cached.get(pk=article.pk) == article
    assert cached.in_bulk([article.pk]) == {article.pk: article}
    assert spared.in_gutter(b"DBSIZE") == 0


def test_a_gutter_that_is_away_too_costs_only_hits(spared: Spared) -> None:
    """Writes go on; what it did not hear of it is told when it is back."""
    made = spared.cache.key_bytes(KEY)
    spared.down(made)
    breaker = spared.client.nodes[2].breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    assert spared.cache.get_or_set(KEY, lambda: "loaded") == "loaded"
    assert spared.cache.get(KEY) is None
    spared.cache.delete(KEY)
    assert spared.client.context.missed.count(2) == 1


@pytest.mark.parametrize("spare", ["redis://a:1?name=x", "redis://c:1?name=a", "redis://b:1?name=y"])
def test_a_node_of_the_ring_is_no_spare_one(spare: str) -> None:
    """Neither by its name nor by its address, nor one of a ring that is being entered."""
    options = {"gutter": [spare], "joining": ["redis://a:1?name=a", "redis://b:1?name=b"]}
    with pytest.raises(
        ConfigurationError, match="is a node of the ring; the gutter's nodes must be spare ones"
    ):
        RingOptions.read("redis://a:1?name=a", options, "CACHES['default']")

"""Signed pickles: each is read under the key that it was signed for, and moved values are signed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings

from cachebackend import RingCache
from cachebackend.testing import empty_ring
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: A value that is pickled, because MessagePack has no keys that are integers.
VALUE = {1: "admin" * 10}


@pytest.fixture(
    params=[
        {},
        {"compressor": "zlib", "compress_over_bytes": 0},
        {"near": {"max_entries": 10}},
        {"lease_on_get": True},
    ],
    ids=["plain", "compressed", "near", "lease_on_get"],
)
def cache(request: pytest.FixtureRequest) -> Iterator[RingCache]:
    with empty_ring(codec="signed-pickle", **request.param) as ring:
        yield ring


def load() -> str:
    return "loaded"


READS: dict[str, Callable[[RingCache], Any]] = {
    "get": lambda cache: cache.get("k", "missed"),
    "aget": lambda cache: async_to_sync(cache.aget)("k", "missed"),
    "get_many": lambda cache: cache.get_many(["k"]).get("k", "missed"),
    "get_or_set": lambda cache: cache.get_or_set("k", load),
    "get_or_set with stale values": lambda cache: cache.get_or_set("k", load, 60, stale_for=5),
    "get_or_set_many": lambda cache: cache.get_or_set_many(["k"], lambda keys: dict.fromkeys(keys, load()))[
        "k"
    ],
}


def record_at(cache: RingCache, key: str) -> tuple[int, bytes, Any]:
    """Return the node of a key, the key's bytes, and its record."""
    key_bytes = cache.key_bytes(key)
    node = cache.client.ring.owner(key_bytes)
    return node, key_bytes, cache.client.nodes[node].call((b"GET", key_bytes))


STORED: dict[str, Callable[[RingCache, str], Any]] = {
    "set": lambda cache, key: cache.set(key, VALUE, 60),
    "loaded": lambda cache, key: cache.get_or_set(key, lambda: VALUE, 60, stale_for=60),
    "set_many": lambda cache, key: cache.set_many({key: VALUE}, 60),
    "add": lambda cache, key: cache.add(key, VALUE, 60),
    "replaced": lambda cache, key: (cache.set(key, 1), cache.set(key, VALUE, 60, xx=True)),
}


@pytest.mark.parametrize("store", STORED.values(), ids=STORED)
def test_every_write_signs_for_its_key(cache: RingCache, store: Callable[[RingCache, str], Any]) -> None:
    """Each read of it is a hit."""
    store(cache, "k")
    assert [read(cache) for read in READS.values()] == [VALUE] * len(READS)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("store", [STORED["set"], STORED["loaded"]], ids=["set", "loaded"])
def test_a_record_that_someone_copies_to_another_key_is_a_miss(
    cache: RingCache, store: Callable[[RingCache, str], Any], read: Callable[[RingCache], Any]
) -> None:
    """Someone who can write to a node cannot choose which signed value a key has."""
    store(cache, "other")
    record, (node, key, _) = record_at(cache, "other")[2], record_at(cache, "k")
    assert record[:2] == b"Vs"
    cache.client.nodes[node].call((b"SET", key, record))
    assert read(cache) in {"missed", "loaded"}


def test_a_moved_value_is_signed_again(cache: RingCache) -> None:
    """With its timeout and its tags."""
    cache.get_or_set("k", lambda: VALUE, 60, tags=["t"])
    cache.incr_version("k")
    assert (cache.get("k"), cache.get("k", version=2)) == (None, VALUE)
    assert 0 < (cache.ttl("k", version=2) or 0) <= 60
    cache.invalidate_tags("t")
    assert cache.get("k", version=2) is None
    cache.set("plain", VALUE)
    cache.incr_version("plain")
    assert cache.get("plain", version=2) == VALUE


def test_a_record_of_another_key_is_not_moved(cache: RingCache) -> None:
    """The move would make a valid signature of it."""
    cache.set("other", VALUE)
    record, (node, key, _) = record_at(cache, "other")[2], record_at(cache, "k")
    cache.client.nodes[node].call((b"SET", key, record))
    with pytest.raises(ValueError, match="not found"):
        cache.incr_version("k")
    assert cache.get("k", version=2) is None


@pytest.mark.ring_of_nodes
def test_a_ring_that_changes_keeps_signed_values(services: Services) -> None:
    """A miss copies the record from the old owner to the new one, under the same key."""
    old, new = services.ring_urls[:2], services.ring_urls
    block = settings.CACHES["default"]
    before = RingCache(old, {**block, "OPTIONS": {"codec": "signed-pickle"}})
    after = RingCache(new, {**block, "OPTIONS": {"codec": "signed-pickle", "leaving": old}})
    keys = [f"k{number}" for number in range(30)]
    before.set_many(dict.fromkeys(keys, VALUE))
    assert after.get_many(keys) == dict.fromkeys(keys, VALUE)
    assert [after.get_or_set(key, load) for key in keys] == [VALUE] * 30
    for cache in (before, after):
        cache.client.close()

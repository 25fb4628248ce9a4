"""Results of queries in the ring: their tags, and the registry of their shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachebackend import RingCache, protocol
from cachebackend.effects import Send
from cachebackend.protocol import FillOptions, ShapeEntry
from cachebackend.protocol.cache.shapes import MAX_SHAPES
from cachebackend.shapes import Shape

KEY, TAG, SHARD = b"result", b"tag\xff", b"shard\xff"
SHAPE = Shape(["category_id"], ["created"])


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


def entry(shape: Shape = SHAPE, *, is_general: bool = False) -> ShapeEntry:
    return ShapeEntry(SHARD, shape.id, shape.description, is_general)


def read(cache: RingCache, loader: Callable[[], Any], *entries: ShapeEntry, key: bytes = KEY) -> Any:
    fill_options = FillOptions(60_000, tags=(TAG,), shapes=entries or (entry(),))
    return cache.client.run(protocol.get_or_load(cache.client.context, key, loader, fill_options))


def send(cache: RingCache, key: bytes, *command: bytes) -> Any:
    """Send a command to the node of a key."""
    context = cache.client.context

    def operation() -> protocol.Operation[Any]:
        [reply] = yield Send([(context.serving_node(key), command)])
        return reply

    return cache.client.run(operation())


def never() -> Any:
    raise AssertionError


def test_a_result_is_loaded_once(cache: RingCache) -> None:
    """The second reader finds the result with the tokens of its tag and its shape."""
    assert read(cache, lambda: [1, 2]) == [1, 2]
    assert read(cache, never) == [1, 2]


@pytest.mark.parametrize("key", [TAG, SHARD], ids=["tag", "shard"])
def test_a_result_without_its_tag_or_its_shard_is_a_miss(cache: RingCache, key: bytes) -> None:
    """A writer deletes the tag; a shard that is lost, or that a writer could not read, is deleted too."""
    read(cache, lambda: "old")
    cache.client.run(protocol.delete_many(cache.client.context, [key]))
    assert read(cache, lambda: "new") == "new"
    assert read(cache, never) == "new"


def test_a_shape_that_is_registered_again_has_another_token(cache: RingCache) -> None:
    """While the shape was not registered, no writer could delete the tag of the first result."""
    read(cache, lambda: "old")
    send(cache, SHARD, b"DEL", SHARD)
    read(cache, lambda: "another", key=b"another result")
    assert read(cache, lambda: "new") == "new"


def test_a_writer_finds_the_shapes_that_are_registered(cache: RingCache) -> None:
    """It reads the ids of all shapes, and the description of one that it does not know."""
    context, other = cache.client.context, Shape([], None)
    read(cache, lambda: 1, entry(), entry(other, is_general=True))
    found = cache.client.run(protocol.read_shards(context, [SHARD, b"empty\xff"]))
    assert found.shapes == {SHARD: {SHAPE.id, other.id}}
    assert not found.unreadable
    names = [(SHARD, SHAPE.id), (SHARD, b"gone")]
    described = cache.client.run(protocol.describe_shapes(context, names))
    assert described == {(SHARD, SHAPE.id): SHAPE.description, (SHARD, b"gone"): None}


def test_a_shard_expires(cache: RingCache) -> None:
    """Shapes that no query has any more are gone a day after the shard was made."""
    read(cache, lambda: 1)
    assert 0 < send(cache, SHARD, b"PTTL", SHARD) <= 24 * 3600 * 1000


def test_a_full_shard_takes_no_shape_except_the_general_one(cache: RingCache) -> None:
    """A result whose shape no writer can find is returned, and not stored."""
    for number in range(MAX_SHAPES):
        read(cache, lambda: 1, entry(Shape([f"column_{number}"], [])), key=b"%d" % number)
    assert read(cache, lambda: "first") == "first"
    assert read(cache, lambda: "second") == "second"
    general = entry(Shape([], None), is_general=True)
    assert read(cache, lambda: "third", general, key=b"other") == "third"
    assert read(cache, never, general, key=b"other") == "third"


def test_a_shard_of_another_type_is_unreadable(cache: RingCache) -> None:
    """Nothing is stored under a shard that another program made, and a writer deletes it."""
    send(cache, SHARD, b"SET", SHARD, b"text")
    assert read(cache, lambda: "first") == "first"
    assert read(cache, lambda: "second") == "second"
    found = cache.client.run(protocol.read_shards(cache.client.context, [SHARD]))
    assert (found.shapes, found.unreadable) == ({}, [SHARD])
    cache.client.run(protocol.delete_many(cache.client.context, found.unreadable))
    read(cache, lambda: "third", key=b"other")
    assert read(cache, never, key=b"other") == "third"


def test_an_entry_of_another_shape_gives_no_token(cache: RingCache) -> None:
    """An entry that was forged or damaged does not describe the shape, so a writer would not find it."""
    send(cache, SHARD, b"HSET", SHARD, SHAPE.id, b"t" * 16 + Shape([], []).description)
    assert read(cache, lambda: "first") == "first"
    assert read(cache, lambda: "second") == "second"


def test_a_change_during_the_load_makes_the_result_a_miss(cache: RingCache) -> None:
    """The tokens are taken before the load, so a tag that is deleted during it has another one."""

    def loader() -> str:
        cache.client.run(protocol.delete_many(cache.client.context, [TAG]))
        return "old"

    assert read(cache, loader) == "old"
    assert read(cache, lambda: "new") == "new"


def test_a_shape_is_registered_when_the_loader_runs(cache: RingCache) -> None:
    """A writer that commits during the load must find the shape."""

    def loader() -> Any:
        return cache.client.run(protocol.read_shards(cache.client.context, [SHARD])).shapes[SHARD]

    assert read(cache, lambda: list(loader())) == [SHAPE.id]

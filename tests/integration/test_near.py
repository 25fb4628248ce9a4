"""The near cache: what is kept, what drops it, and that nothing old is."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import ConfigurationError
from cachebackend.near import MISS, NearCache
from cachebackend.node.node import PendingReplies
from cachebackend.options import RingOptions
from cachebackend.options.ring import NearOptions
from cachebackend.policies import POLICIES, S3FIFO
from cacheproject.demo.models import Article
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def cache() -> Iterator[RingCache]:
    """The default alias with a near cache, whose nodes all tell."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"near": {"max_entries": 100}}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        cache = caches.create_connection("default")
        assert isinstance(cache, RingCache)
        cache.get("first")  # the first read asks the nodes to tell
        wait_until(lambda: len(near_of(cache).tracked) == 3)
        yield cache
        cache.client.close()


def near_of(cache: RingCache) -> NearCache:
    near = cache.client._near
    assert near is not None
    return near


def wait_until(is_so: Callable[[], Any]) -> None:
    """Return once it is so; another thread is at it."""
    deadline = time.monotonic() + 30
    done = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        done.wait(0.002)


def elsewhere(cache: RingCache, *command: Any) -> Any:
    """Have another client do something to the key's node."""
    import redis

    node = cache.client.nodes[cache.client.ring.owner(command[1])]
    with redis.Redis.from_url(node.address.url) as other:
        return other.execute_command(*command)


def near_hits(cache: RingCache) -> int:
    return cache.client.counters.total().near_hits


def keep_copy(cache: RingCache, value: Any) -> None:
    """Read k until its copy is what was read; the node's word of the set may drop the first."""
    before = near_hits(cache)
    wait_until(lambda: cache.get("k") == value and near_hits(cache) > before)


def test_a_call_may_want_no_copy(cache: RingCache, call: Callable[..., Any]) -> None:
    """The node is asked, and what it says is not kept."""
    cache.set("k", "v")
    keep_copy(cache, "v")
    before = near_hits(cache)
    assert call(cache, "get", "k", near=False) == "v"
    assert call(cache, "get_many", ["k", "other"], near=False) == {"k": "v"}
    assert near_hits(cache) == before
    assert call(cache, "get", "k") == "v"
    assert near_hits(cache) == before + 1


@pytest.mark.parametrize("policy", POLICIES)
def test_the_copies_take_no_more_bytes_than_they_may(policy: str) -> None:
    """Keys and records together, whatever is put, put again, dropped or gone with its node."""
    near = NearCache(NearOptions(max_entries=100, max_bytes=500, policy=policy), SYSTEM_CLOCK)
    near.track(0)
    near.track(1)
    chance = random.Random(0)
    for _ in range(2000):
        key, node = b"%d" % chance.randrange(40), chance.randrange(2)
        near.keep(near.begin(key, node), b"x" * chance.randrange(80), b"", 60.0)
        if chance.random() < 0.2:
            near.drop([key, b"another"])
        assert near.size <= 500
    assert len(near) > 5
    near.untrack(0)
    near.track(0)
    assert 0 < near.size < 500
    near.untrack(1)
    assert (len(near), near.size) == (0, 0)
    near.track(1)
    near.keep(near.begin(b"key", 0), b"x" * 498, b"", 60.0)
    assert len(near) == 0
    near.keep(near.begin(b"key", 0), b"x" * 497, b"", 60.0)
    assert (len(near), near.size) == (1, 500)
    near.drop_all()
    assert near.size == 0


def test_long_records_are_not_copied() -> None:
    """If the settings say so."""
    near = NearCache(NearOptions(max_entries=10, max_record_bytes=4), SYSTEM_CLOCK)
    near.track(0)
    for key, record in ((b"short", b"1234"), (b"long", b"12345")):
        near.keep(near.begin(key, 0), record, record, 60.0)
    assert near.get(b"short", bytes) == b"1234"
    assert near.get(b"long", bytes) is MISS


@pytest.mark.parametrize("value", [1, "text", None, {"a": [1]}, [1, 2]])
def test_a_second_read_asks_no_node(cache: RingCache, value: Any) -> None:
    """And what could be changed is another's own copy."""
    cache.set("k", value)
    # The node's word of the set may come after the first read, and drop its copy
    wait_until(lambda: cache.get("k") == value and near_hits(cache))
    found = cache.get("k")
    if isinstance(value, dict | list):
        found.clear()
        assert cache.get("k") == value


READS: dict[str, Callable[[RingCache], Any]] = {
    "get": lambda cache: cache.get("k"),
    "get_many": lambda cache: cache.get_many(["k"]).get("k"),
    "get_or_set": lambda cache: cache.get_or_set("k", load),
    "get_or_set_many": lambda cache: cache.get_or_set_many(["k"], load_many)["k"],
    "aget_many": lambda cache: asyncio.run(cache.aget_many(["k"])).get("k"),
    "aget_or_set": lambda cache: asyncio.run(cache.aget_or_set("k", load)),
}


def load() -> str:
    return "loaded"


def load_many(names: Any) -> dict[Any, str]:
    return dict.fromkeys(names, "loaded")


@pytest.mark.parametrize("way", READS)
def test_every_way_to_read_keeps_copies_and_finds_them(cache: RingCache, way: str) -> None:
    """And none finds what another has changed, once the node has told."""
    read = READS[way]
    if "or_set" not in way:
        cache.set("k", "loaded")
    before = near_hits(cache)
    wait_until(lambda: read(cache) == "loaded" and near_hits(cache) > before)
    assert READS["get"](cache) == "loaded"
    cache.set("k", "own")
    assert read(cache) == "own"
    elsewhere(cache, "SET", cache.key_bytes("k"), b"7")
    wait_until(lambda: read(cache) == 7)
    counted = cache.client.counters.total()
    assert counted.near_hits <= counted.hits


@pytest.mark.parametrize("is_strict", [False, True])
def test_rows_are_copied_unless_they_are_strict(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, is_strict: bool
) -> None:
    """One row or many; a save of this process shows at once."""
    monkeypatch.setattr(type(Article.cached), "cache", property(lambda _: cache))
    monkeypatch.setattr(Article.cached, "is_strict", is_strict)
    article = Article.objects.create(slug="s", title="old")

    def read() -> bool:
        found = [Article.cached.get(pk=article.pk), *Article.cached.in_bulk([article.pk]).values()]
        return [row.title for row in found] == [article.title] * 2

    if is_strict:
        assert all(read() for _ in range(5))
        assert near_hits(cache) == 0
        return
    wait_until(lambda: read() and near_hits(cache) >= 2)
    article.title = "new"
    article.save()
    assert read()


def test_what_others_change_is_dropped(cache: RingCache) -> None:
    """By whatever client, as soon as the node has told."""
    cache.set("k", "old")
    keep_copy(cache, "old")
    key = cache.key_bytes("k")
    elsewhere(cache, "SET", key, b"7")
    wait_until(lambda: cache.get("k") == 7)
    elsewhere(cache, "DEL", key)
    wait_until(lambda: cache.get("k") is None)


@pytest.mark.parametrize(
    "way", ["set", "delete", "delete_many", "set_many", "incr", "touch", "clear", "add after delete"]
)
def test_a_process_sees_its_own_writes_at_once(cache: RingCache, way: str) -> None:
    """Without waiting for the node to tell."""
    writes: dict[str, Callable[[], Any]] = {
        "set": lambda: cache.set("k", 2),
        "delete": lambda: cache.delete("k"),
        "delete_many": lambda: cache.delete_many(["k"]),
        "set_many": lambda: cache.set_many({"k": 2}),
        "incr": lambda: cache.incr("k"),
        "touch": lambda: cache.touch("k", 0),
        "clear": cache.clear,
        "add after delete": lambda: (cache.delete("k"), cache.add("k", 2)),
    }
    expected = None if way in {"delete", "delete_many", "touch", "clear"} else 2
    for _ in range(20):
        cache.set("k", 1)
        keep_copy(cache, 1)
        writes[way]()
        assert cache.get("k") == expected


def test_a_reply_that_an_invalidation_overtook_is_not_kept(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The placeholder is gone when the old value comes."""
    cache.set("k", "old")
    key, near = cache.key_bytes("k"), near_of(cache)
    receive = PendingReplies.receive
    told = threading.Event()
    drop = near.drop

    def dropping(keys: Any) -> None:
        drop(keys)
        if key in keys:
            told.set()

    def overtaken(self: PendingReplies) -> Any:
        replies = receive(self)
        told.clear()
        elsewhere(cache, "SET", key, b"7")
        assert told.wait(10)
        return replies

    with monkeypatch.context() as patch:
        patch.setattr(near, "drop", dropping)
        patch.setattr(PendingReplies, "receive", overtaken)
        near.drop([key])
        assert cache.get("k") == "old"  # read before the write: it may be
    assert cache.get("k") == 7


def test_a_node_that_is_gone_takes_its_copies_with_it(cache: RingCache, services: Services) -> None:
    """And brings none back until it tells again."""
    cache.set("k", {"a": 1})
    keep_copy(cache, {"a": 1})
    name = cache.client.ring.names[cache.client.ring.owner(cache.key_bytes("k"))]
    services.kill(name)
    try:
        wait_until(lambda: len(near_of(cache).tracked) == 2)
        assert near_of(cache).get(cache.key_bytes("k"), cache.client.context.codec.decode) is MISS
    finally:
        services.restart(name)
    wait_until(lambda: len(near_of(cache).tracked) == 3)


def test_a_flush_of_the_node_drops_all(cache: RingCache) -> None:
    """It names no keys."""
    cache.set("k", 1)
    keep_copy(cache, 1)
    node = cache.client.nodes[cache.client.ring.owner(cache.key_bytes("k"))]
    node.call((b"FLUSHALL",))
    wait_until(lambda: cache.get("k") is None)


def test_what_tags_vouch_for_is_not_kept(cache: RingCache) -> None:
    """Their tokens change elsewhere."""
    cache.get_or_set("k", lambda: 5, 100, tags=["t"])
    assert [cache.get("k") for _ in range(5)] == [5] * 5
    assert near_hits(cache) == 0


def test_a_copy_is_good_for_its_age_only() -> None:
    """Whatever the node tells."""

    class Held:
        at = 0.0

        def monotonic(self) -> float:
            return self.at

        def now(self) -> float:
            return self.at

        def random(self) -> float:
            return 0.0

        def token(self) -> bytes:
            return b""

    clock = Held()
    near = NearCache(NearOptions(max_entries=10, policy="lru"), clock)
    near.track(0)
    near.keep(near.begin(b"k", 0), b"1", 1, 60)
    clock.at = 4.9
    assert near.get(b"k", int) == 1
    clock.at = 5.1
    assert near.get(b"k", int) is MISS


def test_nothing_is_kept_of_a_node_that_does_not_tell() -> None:
    """Nor of a read that began before it did."""
    near = NearCache(NearOptions(max_entries=10), SYSTEM_CLOCK)
    near.keep(near.begin(b"k", 0), b"1", 1, 60)
    assert len(near) == 0
    read = near.begin(b"k", 0)
    near.track(0)
    near.keep(read, b"1", 1, 60)
    assert len(near) == 0


@pytest.mark.parametrize("stale_for", [None, 0, 100])
def test_a_copy_does_not_outlive_its_value(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, stale_for: float | None
) -> None:
    """Though the node has not told yet that it expired; nor does it live on as stale."""
    if stale_for is None:
        cache.set("k", 1, timeout=3)
    else:
        cache.get_or_set("k", lambda: 1, 3, stale_for=stale_for)
    wait_until(lambda: cache.get("k") == 1 and near_hits(cache))
    near, key = near_of(cache), cache.key_bytes("k")
    monotonic = near._monotonic
    monkeypatch.setattr(near, "_monotonic", lambda: monotonic() + 3)
    assert near.get(key, cache.client.context.codec.decode) is MISS


def test_a_read_that_keeps_nothing_leaves_no_placeholder(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or reads of such keys would take the room of those whose copies are kept."""
    placeholders = near_of(cache)._placeholders

    async def cancelled() -> None:
        task = asyncio.create_task(cache.aget("k"))
        await asyncio.sleep(0)
        assert placeholders
        task.cancel()
        await asyncio.wait([task])

    cache.get_or_set("tagged", lambda: 5, 100, tags=["t"])
    placeholders.clear()  # the node's word of the fill, too, may take one away
    assert cache.get("tagged") == 5
    assert cache.get("absent") is None
    assert asyncio.run(cache.aget("tagged")) == 5
    elsewhere(cache, "SET", cache.key_bytes("broken"), b"?")
    assert cache.get("broken", "default") == "default"
    asyncio.run(cancelled())
    monkeypatch.setattr(PendingReplies, "receive", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.get("k")
    assert not placeholders


def test_a_default_is_not_kept(cache: RingCache) -> None:
    """Of a record that cannot be read, another read may want another."""
    elsewhere(cache, "SET", cache.key_bytes("k"), b"Vm\x00\xc1")
    assert [cache.get("k", n) for n in range(3)] == [0, 1, 2]


def test_a_forked_child_begins_anew(cache: RingCache) -> None:
    """It has none of the threads that its parent's copies rest on."""
    cache.set("k", 1)
    wait_until(lambda: cache.get("k") == 1 and len(near_of(cache)))
    pid = os.fork()
    if not pid:
        os._exit(len(near_of(cache)) or len(near_of(cache).tracked) or (0 if cache.get("k") == 1 else 9))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("near", "says"),
    [
        ({"max_entries": 0}, r"\['near'\]\['max_entries'\]"),
        ({"policy": "fifo"}, "one of lru, lfu"),
        ({"size": 1}, "unknown"),
        (5, "must be a dict or None"),
    ],
)
def test_faults_are_told(near: Any, says: str) -> None:
    """With their paths."""
    with pytest.raises(ConfigurationError, match=says):
        RingOptions.read(["redis://h:1"], {"near": near}, "CACHES['default']")


# Mutants: each must be noticed


def test_keeping_without_the_placeholder_would_be_wrong(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply that was overtaken stays."""

    def keep(self: NearCache, read: Any, *found: Any) -> None:
        self._placeholders[read.key] = read.ticket
        real(self, read, *found)

    real = NearCache.keep
    monkeypatch.setattr(NearCache, "keep", keep)
    with pytest.raises(AssertionError):
        test_a_reply_that_an_invalidation_overtook_is_not_kept(cache, monkeypatch)


def test_not_dropping_own_writes_would_be_wrong(cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process would read what it has just overwritten, until the node tells."""
    monkeypatch.setattr(type(cache.client.context), "drop_near", lambda *_: None)
    monkeypatch.setattr(NearCache, "drop", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_process_sees_its_own_writes_at_once(cache, "set")


def test_keeping_the_copies_of_a_node_that_is_gone_would_be_wrong(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    """What changed there meanwhile was not told."""
    monkeypatch.setattr(S3FIFO, "items", lambda _: [])  # untrack itself is bound already
    with pytest.raises(AssertionError):
        test_a_node_that_is_gone_takes_its_copies_with_it(cache, services)


def test_a_key_function_is_asked_each_time(cache: RingCache) -> None:
    """A key function that goes by the tenant of the moment never finds another tenant's value."""
    tenants = ["a"]
    cache.key_func = lambda key, prefix, version: f"{tenants[0]}:{prefix}:{version}:{key}"
    cache.set("k", "of a")
    assert cache.get("k") == "of a"
    tenants[0] = "b"
    assert cache.get("k") is None
    cache.set("k", "of b")
    assert cache.get("k") == "of b"


@pytest.mark.parametrize(("name", "other"), [("version", 2), ("key_prefix", "other")])
def test_a_cache_that_is_changed_makes_its_keys_anew(cache: RingCache, name: str, other: Any) -> None:
    """A cache object whose version or prefix is changed finds nothing of the one before."""
    cache.set("k", "one")
    assert cache.get("k") == "one"
    setattr(cache, name, other)
    assert cache.get("k") is None

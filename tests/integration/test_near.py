"""The near cache over real nodes: which copies are stored, what drops them, and that none is stale."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache, cached
from cachebackend.near import MISS, NearCache
from cachebackend.node.node import PendingReplies
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.interrupting import handler, interrupted_everywhere
from tests.threadless import threadless
from tests.waits import wait_until

__all__ = ["handler"]

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def cache() -> Iterator[RingCache]:
    """The default alias with a near cache; the tracking connections of all nodes are open."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"near": {"max_entries": 100}}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        cache = caches.create_connection("default")
        assert isinstance(cache, RingCache)
        # A read opens the tracking connections to the nodes that are known
        wait_until(lambda: cache.get("first") is None and is_tracked(cache))
        yield cache
        cache.client.close()


def is_tracked(cache: RingCache) -> bool:
    """Return whether the tracking connections of all nodes are open; those of a cluster count as one."""
    return len(near_of(cache).tracked_nodes) == (3 if cache.client.cluster is None else 1)


def near_of(cache: RingCache) -> NearCache:
    near = cache.client._near
    assert near is not None
    return near


def elsewhere(cache: RingCache, *command: Any) -> Any:
    """Send a command to the key's node from another client."""
    other = cache.client.redis(command[1])
    try:
        return other.execute_command(*command)
    finally:
        other.close()


def near_hits(cache: RingCache) -> int:
    return cache.client.counters.total().near_hits


def keep_copy(cache: RingCache, value: Any) -> None:
    """Read k until a copy of the value is stored; the invalidation message of the set may drop the first."""
    before = near_hits(cache)
    wait_until(lambda: cache.get("k") == value and near_hits(cache) > before)


def test_a_call_may_bypass_the_near_cache(cache: RingCache, call: Callable[..., Any]) -> None:
    """The value is read from the node, and no copy is stored."""
    cache.set("k", "v")
    keep_copy(cache, "v")
    before = near_hits(cache)
    assert call(cache, "get", "k", near=False) == "v"
    assert call(cache, "get_many", ["k", "other"], near=False) == {"k": "v"}
    assert near_hits(cache) == before
    # The invalidation message of the set may arrive only now, and drop the copy
    wait_until(lambda: call(cache, "get", "k") == "v" and near_hits(cache) > before)


@pytest.mark.parametrize("value", [1, "text", None, {"a": [1]}, [1, 2]])
def test_a_second_read_sends_no_command(cache: RingCache, value: Any) -> None:
    """A value that is not immutable is decoded again for each caller."""
    cache.set("k", value)
    # The invalidation message of the set may arrive after the first read, and drop its copy
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
def test_every_read_method_stores_and_uses_copies(cache: RingCache, way: str) -> None:
    """And none returns an old value after the invalidation message has arrived."""
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
    """One row or many. After a save in this process the next read returns the new row."""
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


def test_changes_of_other_clients_drop_the_copy(cache: RingCache) -> None:
    """As soon as the invalidation message has arrived."""
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
    """Without waiting for the invalidation message."""
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


def test_a_reply_that_an_invalidation_overtook_is_not_copied(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The placeholder is removed before the reply with the old value arrives."""
    cache.set("k", "old")
    key, near = cache.key_bytes("k"), near_of(cache)
    receive = PendingReplies.receive
    received = threading.Event()
    drop = near.drop

    def dropping(keys: Any) -> None:
        drop(keys)
        if key in keys:
            received.set()

    def overtaken(self: PendingReplies) -> Any:
        replies = receive(self)
        received.clear()
        elsewhere(cache, "SET", key, b"7")
        assert received.wait(10)
        return replies

    with monkeypatch.context() as patch:
        patch.setattr(near, "drop", dropping)
        patch.setattr(PendingReplies, "receive", overtaken)
        near.drop([key])
        assert cache.get("k") == "old"  # the read began before the write, so it may return the old value
    assert cache.get("k") == 7


@pytest.mark.ring_of_nodes
def test_the_copies_of_a_node_that_is_down_are_dropped(cache: RingCache, services: Services) -> None:
    """No copies of it are stored until its tracking connection is open again."""
    cache.set("k", {"a": 1})
    keep_copy(cache, {"a": 1})
    name = cache.client.ring.names[cache.client.ring.owner(cache.key_bytes("k"))]
    services.kill(name)
    try:
        wait_until(lambda: len(near_of(cache).tracked_nodes) == 2)
        assert near_of(cache).get(cache.key_bytes("k"), cache.client.context.codec.decode) is MISS
    finally:
        services.restart(name)
    wait_until(lambda: is_tracked(cache))


def test_a_flush_of_the_node_drops_all(cache: RingCache) -> None:
    """The message has no keys."""
    cache.set("k", 1)
    keep_copy(cache, 1)
    node = cache.client.nodes[cache.client.ring.owner(cache.key_bytes("k"))]
    node.call((b"FLUSHALL",))
    wait_until(lambda: cache.get("k") is None)


def test_values_with_tags_are_not_copied(cache: RingCache) -> None:
    """Another client may invalidate a tag, and the message is not for the value's key."""
    cache.get_or_set("k", lambda: 5, 100, tags=["t"])
    assert [cache.get("k") for _ in range(5)] == [5] * 5
    assert near_hits(cache) == 0


@pytest.mark.parametrize("stale_for", [None, 0, 100])
def test_a_copy_does_not_outlive_its_value(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, stale_for: float | None
) -> None:
    """Even if the message that it expired has not arrived. Nor is it served as a stale value."""
    if stale_for is None:
        cache.set("k", 1, timeout=3)
    else:
        cache.get_or_set("k", lambda: 1, 3, stale_for=stale_for)
    wait_until(lambda: cache.get("k") == 1 and near_hits(cache))
    near, key = near_of(cache), cache.key_bytes("k")
    monotonic = near._monotonic
    monkeypatch.setattr(near, "_monotonic", lambda: monotonic() + 3)
    assert near.get(key, cache.client.context.codec.decode) is MISS


def test_a_read_that_stores_no_copy_removes_its_placeholder(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise such reads would use up the placeholders of reads that store copies."""
    placeholders = near_of(cache)._placeholders

    async def cancelled() -> None:
        task = asyncio.create_task(cache.aget("k"))
        await asyncio.sleep(0)
        assert placeholders
        task.cancel()
        await asyncio.wait([task])

    cache.get_or_set("tagged", lambda: 5, 100, tags=["t"])
    placeholders.clear()  # the invalidation message of the fill may remove one too
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


def test_a_read_that_is_interrupted_while_it_begins_removes_its_placeholders(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the keys that it has announced before."""
    near = near_of(cache)
    begin = near.begin

    def begin_two(key: bytes, node: int) -> Any:
        if len(near._placeholders) == 2:
            raise KeyboardInterrupt
        return begin(key, node)

    monkeypatch.setattr(near, "begin", begin_two)
    with pytest.raises(KeyboardInterrupt):
        cache.get_many([f"absent-{number}" for number in range(5)])
    assert not near._placeholders


def test_a_process_without_threads_reads_from_the_nodes(cache: RingCache) -> None:
    """A later read opens the tracking connections, when threads can start again."""
    cache.set("k", 1)
    cache.client.close()
    with threadless():
        assert cache.get("k") == 1
        assert cache.get_many(["k"]) == {"k": 1}
    assert cache.get("absent") is None
    wait_until(lambda: is_tracked(cache))


def _in_a_coroutine(cache: RingCache, load: Callable[[], Any]) -> Any:
    async def loader() -> Any:
        return load()

    return asyncio.run(cache.aget_or_set("page", loader))


def _refresh(cache: RingCache, load: Callable[[], Any]) -> Any:
    function: Any = cached(timeout=60, key=lambda: "page")(load)
    function()
    cache.delete(function.key_of())  # and not the copy of what it reads
    return function.refresh()


#: How a value is loaded that is made from another one.
LOADS: dict[str, Callable[[RingCache, Callable[[], Any]], Any]] = {
    "get_or_set": lambda cache, load: cache.get_or_set("page", load),
    "get_or_set with tags": lambda cache, load: cache.get_or_set("page", load, tags=["t"]),
    "get_or_set_many": lambda cache, load: cache.get_or_set_many(["page"], lambda _: {"page": load()})[
        "page"
    ],
    "refresh": _refresh,
    "aget_or_set": _in_a_coroutine,
}


@pytest.mark.parametrize(
    ("how", "read"),
    [
        *[(how, "get") for how in LOADS],
        *[("get_or_set", read) for read in ("get_many", "get_or_set", "get_or_set_many")],
    ],
)
def test_a_loader_reads_past_the_copies(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, how: str, read: str
) -> None:
    """A copy whose invalidation message is under way would remain in the loaded value."""
    cache.set("k", "old")
    keep_copy(cache, "old")
    monkeypatch.setattr(near_of(cache), "drop", lambda _: None)  # the message does not arrive
    elsewhere(cache, "SET", cache.key_bytes("k"), cache.client.context.codec.encode("new", b""))
    assert READS[read](cache) == "old"
    assert LOADS[how](cache, lambda: READS[read](cache)) == "new"


def test_a_default_is_not_copied(cache: RingCache) -> None:
    """Each read of a record that cannot be decoded returns its own default."""
    elsewhere(cache, "SET", cache.key_bytes("k"), b"Vm\x00\xc1")
    assert [cache.get("k", n) for n in range(3)] == [0, 1, 2]


def test_a_forked_child_has_no_copies(cache: RingCache) -> None:
    """It does not have the threads that read its parent's tracking connections."""
    cache.set("k", 1)
    wait_until(lambda: cache.get("k") == 1 and len(near_of(cache)))
    pid = os.fork()
    if not pid:
        os._exit(
            len(near_of(cache)) or len(near_of(cache).tracked_nodes) or (0 if cache.get("k") == 1 else 9)
        )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_key_function_is_called_each_time(cache: RingCache) -> None:
    """A key function that depends on the present tenant never returns another tenant's value."""
    tenants = ["a"]
    cache.key_func = lambda key, prefix, version: f"{tenants[0]}:{prefix}:{version}:{key}"
    cache.set("k", "of a")
    assert cache.get("k") == "of a"
    tenants[0] = "b"
    assert cache.get("k") is None
    cache.set("k", "of b")
    assert cache.get("k") == "of b"


@pytest.mark.parametrize(("name", "other"), [("version", 2), ("key_prefix", "other")])
def test_a_changed_cache_object_makes_other_keys(cache: RingCache, name: str, other: Any) -> None:
    """After a change of its version or prefix, it reads none of the values that it stored before."""
    cache.set("k", "one")
    assert cache.get("k") == "one"
    setattr(cache, name, other)
    assert cache.get("k") is None


# Python ignores what is raised in the finalizer of a connection
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("handler")
def test_an_interrupted_read_leaves_one_tracking_connection_for_each_node(cache: RingCache) -> None:
    """Wherever the start or the end of the tracking is interrupted; the next read continues it."""
    client = cache.client

    def begin_again() -> None:
        client.close()
        cache.get("k")

    def check() -> None:
        cache.get("k")
        wait_until(lambda: is_tracked(cache))

    swallowed = interrupted_everywhere(begin_again, check, 3)
    assert [place for place in swallowed if not place.startswith("redis/")] == []
    wait_until(lambda: len(tracking_threads()) == 3)


def tracking_threads() -> list[threading.Thread]:
    """Return the threads that run; one whose start was interrupted may never come to call our function."""
    return [each for each in threading.enumerate() if each.name == "ringcache-tracking" and each.is_alive()]

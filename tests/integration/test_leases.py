"""Leases on real nodes: one loader at a time, and no fill with a value from before a write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.conf import settings

from cachebackend import RingCache, protocol
from cachebackend.protocol.cache import fill as fill_module

Call = Callable[..., Any]


@pytest.fixture
def cache(fill: str, empty_nodes: None) -> RingCache:
    """A cache that fills by the server's compare-and-set, and one that fills by script.

    It waits for the replies of a busy machine: a caller whose lease gets no reply in time loads without one.
    """
    options = {"fill": fill, "socket_timeout": 60.0}
    return RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": options})


@pytest.mark.parametrize("change", ["delete", "set", "clear"])
def test_a_value_loaded_before_a_write_is_not_filled_after_it(cache: RingCache, change: str) -> None:
    """The reader selects, the writer commits and invalidates, the reader fills: the fill is refused."""

    def loader() -> str:
        {"delete": lambda: cache.delete("k"), "set": lambda: cache.set("k", "new"), "clear": cache.clear}[
            change
        ]()
        return "old"

    assert cache.get_or_set("k", loader) == "old"
    assert cache.get("k") == ("new" if change == "set" else None)
    assert cache.client.counters.total().stale_sets_refused == 1


def test_many_threads_that_miss_at_once_load_once(cache: RingCache) -> None:
    """The others wait for the value of the lease holder."""
    loads: list[int] = []
    begin = threading.Barrier(12)
    loading = threading.Event()
    values: list[Any] = []

    def loader() -> str:
        loads.append(1)
        loading.wait(5)
        return "value"

    def read() -> None:
        begin.wait()
        values.append(cache.get_or_set("k", loader))

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    while cache.client.counters.total().lease_waits < 11:
        pass
    loading.set()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert values == ["value"] * 12


def test_many_tasks_that_miss_at_once_load_once(cache: RingCache) -> None:
    """The same in one event loop."""
    loads: list[int] = []

    async def main() -> list[Any]:
        loading = asyncio.Event()

        async def loader() -> str:
            loads.append(1)
            await loading.wait()
            return "value"

        tasks = [asyncio.ensure_future(cache.aget_or_set("k", loader)) for _ in range(50)]
        while cache.client.counters.total().lease_waits < 49:
            await asyncio.sleep(0)
        loading.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["value"] * 50
    assert len(loads) == 1


def test_a_cancelled_loader_releases_its_lease(cache: RingCache) -> None:
    """The next reader loads at once."""

    async def main() -> Any:
        begun = asyncio.Event()

        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(cache.aget_or_set("k", endless))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await cache.aget_or_set("k", lambda: "next")

    assert asyncio.run(main()) == "next"
    assert cache.client.counters.total().lease_waits == 0


def test_readers_of_an_absent_row_load_at_the_same_time(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first one, whose loader found nothing to fill; they do not lease it one after another."""
    monkeypatch.setattr(fill_module, "RELEASED_MS", 60_000)
    options = protocol.FillOptions(60_000)
    first, together, loading = threading.Event(), threading.Barrier(5), threading.Event()

    def find_nothing() -> Any:
        loading.set()
        first.wait(5)
        return protocol.MISSING

    def find_nothing_together() -> Any:
        together.wait(5)
        return protocol.MISSING

    found: list[Any] = []

    def read(loader: protocol.Loader) -> None:
        found.append(cache.client.get_or_load(b"k", loader, options))

    threads = [threading.Thread(target=read, args=[find_nothing])]
    threads[0].start()
    loading.wait(5)
    threads += [threading.Thread(target=read, args=[find_nothing_together]) for _ in range(5)]
    for thread in threads[1:]:
        thread.start()
    while cache.client.counters.total().lease_waits < 5:
        pass
    first.set()
    for thread in threads:
        thread.join()
    assert found == [protocol.MISSING] * 6


def test_a_write_ends_the_time_in_which_readers_load_without_a_lease(cache: RingCache, call: Call) -> None:
    """``set``, ``add`` and ``delete`` treat the record like a lease."""
    for name, arguments, expected in (("set", ("v",), "v"), ("add", ("v",), "v"), ("delete", (), "loaded")):
        cache.get_or_set("k", "not stored", 0)
        assert cache.client.counters.total().leases_granted > 0
        assert call(cache, "get", "k") is None
        call(cache, name, "k", *arguments)
        assert call(cache, "get_or_set", "k", "loaded") == expected
        assert call(cache, "get", "k") == expected
        cache.delete("k")


def test_a_loader_may_read_its_own_key(cache: RingCache, call: Call) -> None:
    """It does not wait for the lease under which it runs, and the outer call fills."""
    assert cache.get_or_set("k", lambda: cache.get_or_set("k", lambda: 5) + 1) == 6

    async def inner() -> Any:
        return await cache.aget_or_set("l", lambda: 5) + 1

    assert async_to_sync(cache.aget_or_set)("l", inner) == 6
    assert call(cache, "get_many", ["k", "l"]) == {"k": 6, "l": 6}
    assert cache.client.counters.total().lease_waits == 0


class TestLeaseOnGet:
    """``lease_on_get``: code that gets, loads and sets by itself cannot set a stale value."""

    @pytest.fixture
    def caches(self, fill: str, empty_nodes: None) -> tuple[RingCache, RingCache]:
        """The cache objects of two requests, for one alias."""
        options = {"OPTIONS": {"lease_on_get": True, "fill": fill}}
        location = settings.CACHES["default"]["LOCATION"]
        return RingCache(location, options), RingCache(location, options)

    def test_a_late_set_is_refused(self, caches: tuple[RingCache, RingCache], call: Any) -> None:
        """The reader misses, the writer invalidates, the reader sets."""
        reader, writer = caches
        assert call(reader, "get", "k", "none") == "none"
        call(writer, "delete", "k")
        call(reader, "set", "k", "old", 60)
        assert call(reader, "get", "k") is None
        reader.close()
        assert call(reader, "get", "k") is None
        call(reader, "set", "k", "new", 60)
        assert call(writer, "get", "k") == "new"
        assert reader.client.counters.total().stale_sets_refused == 1

    @pytest.mark.parametrize("is_filled", [True, False], ids=["another fills", "nobody fills"])
    @pytest.mark.parametrize(
        "touches",
        [
            [("get", "k")], [("get_many", ["k"])], [("get", "k"), ("set", "k", "mine")],
            [("get_many", ["k"]), ("set_many", {"k": "mine"})], [("get_or_set", "k", "mine")],
            [("get_or_set_many", ["k"], lambda _: {})], [("set", "k", "old")], [("set_many", {"k": "old"})],
            [("set", "k", "old"), ("get", "k")],
        ],
        ids=lambda touches: " ".join(name for name, *_ in touches),
    )  # fmt: skip
    def test_the_first_miss_counts_until_a_write_is_stored(
        self,
        caches: tuple[RingCache, RingCache],
        call: Any,
        touches: list[tuple[Any, ...]],
        is_filled: bool,
    ) -> None:
        """The key is used again between the load and the set: the value is as old as it was."""
        caller, other = caches
        assert call(caller, "get", "k") is None
        call(other, "delete", "k")
        if is_filled:
            call(other, "set", "k", "new")
        for name, *arguments in touches:
            call(caller, name, *arguments)
        assert call(caller, "set", "k", "old") is False
        assert call(other, "get", "k") != "old"

    @pytest.mark.parametrize(
        ("name", "arguments", "options"),
        [("add", ["k", "old"], {}), ("set", ["k", "old"], {"nx": True})],
        ids=["add", "set nx"],
    )
    def test_a_write_that_stores_nothing_ends_no_lease(
        self,
        caches: tuple[RingCache, RingCache],
        call: Any,
        name: str,
        arguments: list[Any],
        options: dict[str, Any],
    ) -> None:
        """Another process has filled the key."""
        caller, other = caches
        assert call(caller, "get", "k") is None
        call(other, "set", "k", "new")
        assert call(caller, name, *arguments, **options) is False
        assert call(caller, "set", "k", "old") is False
        with pytest.raises(ValueError, match="'absent' not found"):
            call(caller, "incr_version", "absent")
        assert call(caller, "get", "absent") is None
        with pytest.raises(ValueError, match="'absent' not found"):
            call(caller, "incr_version", "absent")
        call(other, "delete", "absent")
        assert call(caller, "set", "absent", "old") is False

    def test_a_second_get_takes_no_other_lease(self, caches: tuple[RingCache, RingCache], call: Any) -> None:
        """It could not be used, and other processes would wait for it; the first one is still good."""
        caller, other = caches
        call(caller, "get_many", ["k", "l"])
        call(other, "delete", "l")
        assert call(caller, "get_many", ["k", "l"]) == {}
        assert call(caller, "get", "l") is None
        assert call(other, "get_or_set", "l", "new") == "new"
        assert caller.client.counters.total().lease_waits == 0
        assert call(caller, "set", "k", "v") is True
        assert call(caller, "set", "k", "w") is True

    def test_a_process_without_requests_forgets_old_misses(
        self, caches: tuple[RingCache, RingCache], call: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A set of an old value is refused once; a get takes a new lease."""
        caller, other = caches
        call(caller, "get_many", ["k", "l"])
        call(other, "delete_many", ["k", "l"])
        later = caller.client.context.clock.monotonic() + 61
        monkeypatch.setattr(type(caller.client.context.clock), "monotonic", lambda _: later)
        assert call(caller, "set", "k", "old") is False
        assert call(caller, "set", "k", "new") is True
        assert call(caller, "get", "l") is None
        assert call(caller, "set", "l", "new") is True

    def test_a_reader_without_the_lease_sets_nothing(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """Its value may be older than the value that the lease holder will set."""
        first, second = caches
        call(first, "get", "k")
        call(second, "get", "k")
        call(second, "set", "k", "from the second", 60)
        assert call(first, "get_many", ["k"]) == {}
        call(first, "set", "k", "from the first", None)
        assert call(second, "get", "k") == "from the first"

    def test_a_set_without_a_miss_before_it_is_a_plain_set(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """Also after the end of the request that missed it, and if the key had a value."""
        first, second = caches
        call(first, "set", "k", 1)
        assert call(second, "get", "k") == 1
        call(second, "set", "k", 2)
        assert call(first, "get", "k") == 2
        call(first, "delete", "k")
        call(first, "get", "k")
        first.close()
        call(first, "set", "k", 3)
        assert call(first, "get", "k") == 3

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("delete", ["k"]), ("delete_many", [["k"]]), ("clear", []), ("clear_all", []),
            ("delete_pattern", ["k*"]), ("add", ["k", "v"]), ("make_stale", ["k", 5]),
            ("incr_version", ["k"]), ("set", ["k", "v", 0]),
        ],
    )  # fmt: skip
    def test_another_write_of_the_caller_ends_its_lease(
        self, caches: tuple[RingCache, RingCache], call: Any, name: str, arguments: list[Any]
    ) -> None:
        """It supersedes what the caller has read, so the next set is a plain one."""
        caller, other = caches
        assert call(caller, "get", "k") is None
        if name == "incr_version":
            call(other, "set", "k", "v")
        call(caller, name, *arguments)
        assert call(caller, "set", "k", "new") is True
        assert call(other, "get", "k") == "new"

    @pytest.mark.parametrize(
        ("name", "arguments"), [("touch", ["k", 9]), ("incr", ["k"]), ("set", ["k", 6, 9])], ids=str
    )
    def test_a_write_that_needs_a_value_ends_the_lease_if_it_found_one(
        self, caches: tuple[RingCache, RingCache], call: Any, name: str, arguments: list[Any]
    ) -> None:
        """Otherwise the lease is still there, and protects the next set."""
        caller, other = caches
        options = {"xx": True} if name == "set" else {}
        call(caller, "get_many", ["k", "l"])
        call(other, "set", "k", 5)
        assert call(caller, name, *arguments, **options)
        assert call(caller, "set", "k", 7) is True
        with suppress(ValueError):
            call(caller, name, "l", *arguments[1:], **options)
        call(other, "delete", "l")
        assert call(caller, "set", "l", "old") is False

    def test_a_pattern_ends_the_leases_of_the_keys_that_it_may_match(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """The others are still protected."""
        caller, other = caches
        call(caller, "get_many", ["user:1", "page:1"])
        call(caller, "delete_pattern", "user:*")
        assert call(caller, "set", "user:1", 1) is True
        call(other, "delete", "page:1")
        assert call(caller, "set", "page:1", "old") is False

    @pytest.mark.parametrize("record", [b"\x80\x05pickled", b"[1, 2]", b"Vz\x00x", b"V"], ids=str)
    def test_a_record_that_cannot_be_decoded_can_be_replaced(
        self, caches: tuple[RingCache, RingCache], call: Any, record: bytes
    ) -> None:
        """Another library may have written it: the get acquires a lease in its place."""
        caller, other = caches
        node = caller.client.nodes[caller.client.ring.owner(caller.key_bytes("k"))]
        node.call((b"SET", caller.key_bytes("k"), record))
        assert call(caller, "get", "k") is None
        assert call(caller, "set", "k", "new") is True
        node.call((b"SET", caller.key_bytes("k"), record))
        assert call(caller, "get_many", ["k"]) == {}
        call(other, "delete", "k")
        assert call(caller, "set_many", {"k": "old"}) == []
        assert call(other, "get", "k") is None

    def test_a_key_of_another_type_can_be_replaced(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """By a plain set: its node grants no lease."""
        caller, _ = caches
        node = caller.client.nodes[caller.client.ring.owner(caller.key_bytes("k"))]
        node.call((b"HSET", caller.key_bytes("k"), b"f", b"v"))
        assert call(caller, "get", "k") is None
        assert call(caller, "set", "k", "new") is True
        assert call(caller, "get", "k") == "new"

    @pytest.mark.parametrize("way", ["time is over", "tag is gone"])
    def test_a_loaded_value_that_is_a_miss_can_be_replaced(
        self, caches: tuple[RingCache, RingCache], call: Any, way: str
    ) -> None:
        """A stale value, and one whose tags have changed."""
        caller, other = caches
        other.get_or_set("k", "old", 60, stale_for=60, tags=["t"])
        if way == "time is over":
            other.make_stale("k", 60)
        else:
            other.invalidate_tags("t")
        assert call(caller, "get", "k") is None
        assert call(caller, "set", "k", "new") is True
        assert call(other, "get", "k") == "new"

    def test_a_value_that_appears_between_the_get_and_the_lease_is_a_hit(
        self, caches: tuple[RingCache, RingCache]
    ) -> None:
        """The request for the lease returns it; with tags, too."""
        caller, other = caches
        for tags in ((), ("t",)):
            key = caller.key_bytes(f"k{len(tags)}")

            def get(key: bytes = key, tags: tuple[str, ...] = tags) -> protocol.Operation[Any]:
                operation = protocol.get_and_lease(caller.client.context, key, "missing")
                effect = operation.send((yield next(operation)))
                other.get_or_set(f"k{len(tags)}", "value", tags=tags)
                try:
                    while True:
                        effect = operation.send((yield effect))
                except StopIteration as end:
                    return end.value

            assert caller.client.run(get()) == ("value", protocol.NOT_LEASED)

    def test_an_expired_lease_is_refused(self, caches: tuple[RingCache, RingCache], call: Any) -> None:
        """The key may have been deleted since; the next request acquires a lease again."""
        caller, _ = caches
        call(caller, "get_many", ["k", "l"])
        for key in ("k", "l"):
            node = caller.client.nodes[caller.client.ring.owner(caller.key_bytes(key))]
            node.call((b"DEL", caller.key_bytes(key)))
        assert call(caller, "set", "k", "old") is False
        assert caller.client.counters.total().stale_sets_refused == 1
        caller.close()
        assert call(caller, "get_many", ["k", "l"]) == {}
        assert call(caller, "set", "k", "new") is True
        assert call(caller, "set", "l", "new") is True

    def test_get_or_set_after_get_releases_the_lease(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """It does not wait for the lease that the same request holds, and it fills."""
        caller, other = caches
        call(caller, "get_many", ["k", "l"])
        assert call(caller, "get_or_set", "k", "loaded") == "loaded"
        loaded = call(caller, "get_or_set_many", ["k", "l"], lambda keys: dict.fromkeys(keys, "too"))
        assert loaded == {"k": "loaded", "l": "too"}
        assert call(other, "get_many", ["k", "l"]) == loaded
        assert caller.client.counters.total().lease_waits == 0
        assert call(caller, "set", "k", "loaded before") is False

    def test_a_loader_that_gets_its_own_key_leaves_no_lease(
        self, caches: tuple[RingCache, RingCache]
    ) -> None:
        """The outer call fills, and a later set is a plain one."""
        caller, other = caches
        assert caller.get_or_set("k", lambda: caller.get("k", 5)) == 5
        assert other.get("k") == 5
        assert caller.set("k", 6) is True

    def test_a_key_with_nothing_to_fill_can_be_leased(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """``get_or_set_many`` found no value, and another part of the code sets one."""
        caller, other = caches
        call(caller, "get_or_set_many", ["k"], lambda _: {})
        assert call(caller, "get", "k") is None
        assert call(caller, "set", "k", "v") is True
        assert call(other, "get", "k") == "v"

    def test_a_timeout_of_zero_deletes(self, caches: tuple[RingCache, RingCache], call: Any) -> None:
        """As any other set with this timeout."""
        first, second = caches
        call(first, "get", "k")
        call(first, "set", "k", "v", 0)
        assert call(second, "get", "k") is None

    def test_late_sets_of_many_keys_are_refused_one_by_one(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """An invalidated key is refused, other missed keys are filled, and a key that hit is set."""
        reader, writer = caches
        call(writer, "set", "there", 1)
        assert call(reader, "get_many", ["there", "a", "b", "c"]) == {"there": 1}
        call(writer, "delete", "b")
        call(writer, "set", "c", "newer")
        values = {"there": 2, "a": "old", "b": "old", "c": "old"}
        assert call(reader, "set_many", values) == []
        assert call(writer, "get_many", list(values)) == {"there": 2, "a": "old", "c": "newer"}
        total = reader.client.counters.total()
        assert (total.stale_sets_refused, total.leases_granted) == (2, 4)

    def test_set_and_set_many_use_the_leases_of_get_and_get_many(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """A lease belongs to its key, whichever method took it; a second get does not lose it."""
        reader, writer = caches
        call(reader, "get_many", ["a", "b"])
        call(reader, "get", "a")
        call(reader, "set", "a", 1)
        call(reader, "get", "c")
        call(writer, "delete_many", ["b", "c"])
        call(reader, "set_many", {"b": "old", "c": "old"})
        assert call(reader, "get_many", ["a", "b", "c"]) == {"a": 1}

    def test_a_timeout_of_zero_deletes_many(self, caches: tuple[RingCache, RingCache], call: Any) -> None:
        """As any other ``set_many`` with this timeout."""
        first, second = caches
        call(first, "get_many", ["a", "b"])
        assert call(first, "set_many", {"a": 1, "b": 2}, 0) == []
        assert call(second, "get_many", ["a", "b"]) == {}

    def test_a_task_keeps_its_own_lease(self, caches: tuple[RingCache, RingCache]) -> None:
        """Another task misses the key, or deletes it, or its request ends; the cache object is the same."""
        cache, other = caches

        async def read(loaded: asyncio.Event, touched: asyncio.Event) -> bool:
            assert await cache.aget("k") is None
            loaded.set()
            await touched.wait()
            return await cache.aset("k", "old")

        async def touch(way: str, loaded: asyncio.Event, touched: asyncio.Event) -> None:
            await loaded.wait()
            await other.adelete("k")
            if way == "delete":
                await cache.adelete("k")
            else:
                assert await cache.aget("k") is None
            if way == "end":
                await sync_to_async(cache.close)()
            touched.set()

        async def both(way: str) -> None:
            events = asyncio.Event(), asyncio.Event()
            is_stored, _ = await asyncio.gather(read(*events), touch(way, *events))
            assert not is_stored

        assert cache.get("before") is None
        for way in ("get", "delete", "end"):
            async_to_sync(both)(way)
            assert other.get("k") is None

    def test_threads_of_a_request_share_its_leases(self, caches: tuple[RingCache, RingCache]) -> None:
        """``sync_to_async`` and ``async_to_sync`` carry them there and back."""
        cache, other = caches

        async def request() -> None:
            for thread_sensitive in (True, False):
                assert await sync_to_async(cache.get, thread_sensitive=thread_sensitive)("k") is None
                other.delete("k")
                assert await cache.aset("k", "old") is False
                cache.close()
            assert await cache.aget("k") is None
            other.delete("k")
            assert await sync_to_async(cache.set)("k", "old") is False

        async_to_sync(request)()
        assert cache.set("k", "old") is False
        assert other.get("k") is None

    def test_a_task_that_has_ended_leaves_its_leases_to_its_request(
        self, caches: tuple[RingCache, RingCache]
    ) -> None:
        """Under Django's ASGI handler: the request sets, or it ends and releases them."""
        cache, other = caches

        async def request() -> None:
            async with ThreadSensitiveContext():
                await asyncio.gather(*map(cache.aget, ("k", "l", "m")))
                await other.adelete("k")
                assert await cache.aset("k", "old") is False
                assert await cache.aset("l", "new") is True
                await sync_to_async(cache.close)()

        async_to_sync(request)()
        assert other.get_many(["k", "l"]) == {"l": "new"}
        assert other.get_or_set("m", "loaded") == "loaded"
        assert other.client.counters.total().lease_waits == 0

    def test_the_end_of_a_request_releases_its_leases(
        self, caches: tuple[RingCache, RingCache], call: Any
    ) -> None:
        """The next caller loads at once, and does not wait until the leases expire."""
        first, second = caches
        call(first, "get_many", ["a", "b"])
        call(first, "get", "c")
        call(first, "set", "c", 1)
        first.close()
        for key in ("a", "b"):
            assert call(second, "get_or_set", key, "loaded") == "loaded"
        assert call(second, "get", "c") == 1
        assert second.client.counters.total().lease_waits == 0

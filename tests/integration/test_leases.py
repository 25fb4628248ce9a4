"""Leases on real nodes: one loader at a time, and no fill with a value from before a write."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache


@pytest.fixture
def cache(fill: str, empty_nodes: None) -> RingCache:
    """A cache that fills by the server's compare-and-set, and one that fills by script."""
    return RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"fill": fill}})


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
        call(reader, "set", "k", "new", 60)
        assert call(writer, "get", "k") == "new"
        assert reader.client.counters.total().stale_sets_refused == 1

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

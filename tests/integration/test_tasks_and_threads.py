"""Reads of a task, and of the thread in which its blocking code runs, do not wait for each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.cache import cache

from cachebackend import RingCache
from cacheproject.demo.models import Article
from tests.waits import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


async def row_and_list() -> None:
    """Read a row, and a list that has it, which Django reads in the thread."""

    async def read_list() -> list[Article]:
        return [article async for article in Article.cached.filter(title="old").order_by("pk")]

    row, rows = await asyncio.gather(Article.cached.aget(slug="a"), read_list())
    assert rows == [row]


async def begun(event: threading.Event) -> None:
    """Return when another thread has set an event; the tasks of this loop run meanwhile."""
    while not event.is_set():
        await asyncio.sleep(0)


async def value() -> None:
    """Read a value in a task, and while it is loaded, in the thread."""
    loading, reading = asyncio.Event(), threading.Event()

    async def load() -> int:
        loading.set()
        await begun(reading)
        return await Article.objects.acount()

    def read() -> int:
        reading.set()
        return cache.get_or_set("count", Article.objects.count, 60)  # type: ignore[no-any-return]

    async def read_in_thread() -> int:
        await loading.wait()
        return await sync_to_async(read)()

    assert await asyncio.gather(cache.aget_or_set("count", load, 60), read_in_thread()) == [1, 1]


@pytest.mark.parametrize("read", [row_and_list, value])
def test_no_read_waits_for_a_loader_that_waits_for_its_thread(
    ring_cache: RingCache, read: Callable[[], Awaitable[None]]
) -> None:
    """Without that rule, both would wait until the lease expires."""

    async def request() -> None:
        async with ThreadSensitiveContext():  # as under ASGI
            await asyncio.wait_for(read(), ring_cache.client.context.options.lease_timeout / 2)

    Article.objects.create(slug="a", title="old")
    for _ in range(10):
        Article.objects.update(title="old")
        cache.delete("count")
        async_to_sync(request)()


async def begin_to_load(loading: threading.Event, reading: threading.Event) -> int:
    """Load a value by the thread, when another task has begun to read it there."""

    async def load() -> int:
        loading.set()
        await begun(reading)
        return await sync_to_async(int)()

    return await cache.aget_or_set("count", load, 60)  # type: ignore[no-any-return]


async def read_in_thread(loading: threading.Event, reading: threading.Event) -> int:
    """Read the value that another task has begun to load."""

    def read() -> int:
        reading.set()
        return cache.get_or_set("count", int, 60)  # type: ignore[no-any-return]

    await begun(loading)
    return await sync_to_async(read)()


async def in_request(awaitable: Awaitable[int]) -> int:
    async with ThreadSensitiveContext():
        return await awaitable


def in_two_loops() -> list[int]:
    """The tasks of all loops have one thread."""
    events = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(asyncio.run, each(*events)) for each in (begin_to_load, read_in_thread)]
        return [each.result() for each in both]


def in_two_requests_of_a_thread() -> list[int]:
    """The thread that has called ``async_to_sync`` runs the blocking code of both."""
    events = threading.Event(), threading.Event()

    async def main() -> list[int]:
        return await asyncio.gather(in_request(begin_to_load(*events)), in_request(read_in_thread(*events)))

    return async_to_sync(main)()


def in_async_to_sync() -> list[int]:
    """The thread waits for a task, which would wait for the lease."""
    loading, reading = threading.Event(), threading.Event()

    def read() -> int:
        reading.set()
        return async_to_sync(cache.aget_or_set)("count", int, 60)  # type: ignore[no-any-return]

    async def read_in_task() -> int:
        await begun(loading)
        return await sync_to_async(read)()

    async def main() -> list[int]:
        return await asyncio.gather(begin_to_load(loading, reading), read_in_task())

    return asyncio.run(main())


@pytest.mark.parametrize("read", [in_two_loops, in_two_requests_of_a_thread, in_async_to_sync])
def test_tasks_that_share_a_thread_do_not_wait_for_each_other(
    ring_cache: RingCache, read: Callable[[], list[int]]
) -> None:
    """As in one loop, or one request."""
    assert read() == [0, 0]
    assert ring_cache.client.counters.total().lease_waits == 0


def test_other_threads_wait_for_a_loader(ring_cache: RingCache) -> None:
    """Although they have run code of ``sync_to_async`` before, and a task loads something."""
    loads: list[int] = []
    loading, ended, together = asyncio.Event(), asyncio.Event(), threading.Barrier(4)

    def load() -> int:
        loads.append(1)
        wait_until(lambda: ring_cache.client.counters.total().lease_waits == 3)
        return 1

    async def load_another() -> int:
        loading.set()
        await ended.wait()
        return 1

    async def main() -> None:
        await asyncio.gather(*(sync_to_async(together.wait, thread_sensitive=False)() for _ in range(4)))
        other = asyncio.create_task(cache.aget_or_set("another", load_another, 60))
        await loading.wait()
        await asyncio.gather(*(asyncio.to_thread(cache.get_or_set, "count", load, 60) for _ in range(4)))
        ended.set()
        await other

    asyncio.run(main())
    assert loads == [1]

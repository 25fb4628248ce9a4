"""Reads of a task, and of the thread in which its blocking code runs, do not wait for each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.cache import cache
from django.db import connection, transaction

from cachebackend import RingCache
from cachebackend.loader import held_tokens
from cachebackend.testing import empty_ring
from cacheproject.demo.models import Article
from tests.waits import wait_until, whole_leases

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def waits_for_a_whole_lease(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The leases that a caller has waited for until they should have expired."""
    return whole_leases(monkeypatch)


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


def in_an_event_loop() -> list[int]:
    """Blocking code in the thread of the loop, where the loader is to continue."""

    async def main() -> list[int]:
        loading, reading = threading.Event(), threading.Event()
        loader = asyncio.create_task(begin_to_load(loading, reading))
        await begun(loading)
        reading.set()
        value = cache.get_or_set("count", int, 60)
        return [value, await loader]

    return asyncio.run(main())


def in_a_loop_of_the_loader() -> list[int]:
    """A blocking loader starts an event loop, whose blocking code has the thread of all loops."""
    loading, reading = threading.Event(), threading.Event()

    def load() -> int:
        loading.set()
        wait_until(reading.is_set)
        return asyncio.run(sync_to_async(int)())

    async def main() -> list[int]:
        loader = asyncio.to_thread(cache.get_or_set, "count", load, 60)
        return await asyncio.gather(loader, read_in_thread(loading, reading))

    return asyncio.run(main())


async def read_at_once(reading: threading.Event) -> int:
    """Set an event, and return what a load returns: 0, unless it has waited until the lease was free."""

    async def load() -> int:
        return len(held_tokens())

    reading.set()
    return await cache.aget_or_set("count", load, 60)  # type: ignore[no-any-return]


def in_a_loop_of_the_reader() -> list[int]:
    """Blocking code in the thread of all loops starts an event loop, which waits there."""
    loading, reading = threading.Event(), threading.Event()

    async def read_in_loop() -> int:
        await begun(loading)
        return await sync_to_async(lambda: asyncio.run(read_at_once(reading)))()

    async def main() -> list[int]:
        return await asyncio.gather(begin_to_load(loading, reading), read_in_loop())

    return asyncio.run(main())


def in_the_pool_of_a_loop_that_the_thread_has_made() -> list[int]:
    """Code of the pool calls ``async_to_sync``, which forgets whose thread waits for its loop."""
    return _in_a_pool(force_new_loop=True)


def in_a_pool_that_the_thread_waits_for() -> list[int]:
    """As before, in the pool of the loop of the loader."""
    return _in_a_pool(force_new_loop=False)


def _in_a_pool(*, force_new_loop: bool) -> list[int]:
    loading, reading = threading.Event(), threading.Event()

    async def read_in_pool() -> int:
        await asyncio.to_thread(int)
        return await asyncio.to_thread(async_to_sync(read_at_once), reading)

    async def read_in_thread() -> int:
        await begun(loading)
        return await sync_to_async(async_to_sync(read_in_pool, force_new_loop=force_new_loop))()

    async def main() -> list[int]:
        return await asyncio.gather(begin_to_load(loading, reading), read_in_thread())

    return asyncio.run(main())


@pytest.mark.parametrize(
    "read",
    [
        in_a_pool_that_the_thread_waits_for,
        in_the_pool_of_a_loop_that_the_thread_has_made,
        in_two_loops,
        in_two_requests_of_a_thread,
        in_async_to_sync,
        in_an_event_loop,
        in_a_loop_of_the_loader,
        in_a_loop_of_the_reader,
    ],
)
def test_tasks_that_share_a_thread_do_not_wait_for_each_other(
    waits_for_a_whole_lease: list[bytes], read: Callable[[], list[int]]
) -> None:
    """As in one loop, or one request."""
    assert read() == [0, 0]
    assert waits_for_a_whole_lease == []


def test_a_get_that_keeps_its_lease_keeps_no_thread_waiting(waits_for_a_whole_lease: list[bytes]) -> None:
    """With ``lease_on_get`` a task holds the lease until its set, and loads in the thread."""

    async def main() -> list[int]:
        missed, reading = asyncio.Event(), threading.Event()

        async def aside() -> int:
            assert await cache.aget("count") is None
            missed.set()
            await begun(reading)
            value = await sync_to_async(int)()
            await cache.aset("count", value)
            return value

        def read() -> int:
            reading.set()
            return cache.get_or_set("count", int, 60)  # type: ignore[no-any-return]

        task = asyncio.create_task(aside())
        await missed.wait()
        return [await sync_to_async(read)(), await task]

    with empty_ring(lease_on_get=True):
        assert asyncio.run(main()) == [0, 0]
    assert waits_for_a_whole_lease == []


def test_the_last_thread_of_a_pool_does_not_wait(waits_for_a_whole_lease: list[bytes]) -> None:
    """If a task of the loop may wait for the pool: its loader, for example."""
    loads: list[int] = []

    async def main() -> list[int]:
        loading, begun_reads = asyncio.Event(), [threading.Event() for _ in range(3)]

        async def load() -> int:
            loading.set()
            for each in begun_reads:
                await begun(each)
            return await asyncio.to_thread(int)

        def read(event: threading.Event) -> int:
            event.set()
            return cache.get_or_set("count", lambda: loads.append(1) or 0, 60)  # type: ignore[no-any-return]

        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
        loader = asyncio.create_task(cache.aget_or_set("count", load, 60))
        await loading.wait()
        return await asyncio.gather(loader, *(asyncio.to_thread(read, each) for each in begun_reads))

    assert asyncio.run(main()) == [0] * 4
    assert loads
    assert waits_for_a_whole_lease == []


def test_tasks_of_one_call_of_async_to_sync_load_once(ring_cache: RingCache) -> None:
    """The thread that has called it does the blocking work of the loader while the other tasks wait."""
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        return 1

    async def aload() -> int:
        await waiting(ring_cache, 3)
        return await sync_to_async(load)()

    async def main() -> list[int]:
        return await asyncio.gather(*(cache.aget_or_set("count", aload, 60) for _ in range(4)))

    assert async_to_sync(main)() == [1] * 4
    assert loads == [1]


async def waiting(ring_cache: RingCache, count: int) -> None:
    """Return when some callers wait for leases."""
    while ring_cache.client.counters.total().lease_waits < count:
        await asyncio.sleep(0)


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


def test_a_loop_in_the_thread_of_a_request_asks_that_thread_nothing(ring_cache: RingCache) -> None:
    """It would wait for itself while another thread has an open transaction with changes."""

    async def read() -> int:
        return await ring_cache.aget_or_set("count", lambda: 1, 60)

    async def request() -> int:
        async with ThreadSensitiveContext():
            return await asyncio.wait_for(sync_to_async(lambda: asyncio.run(read()))(), 10)

    def write() -> None:
        with transaction.atomic():
            Article.objects.create(slug="a", title="new")
            is_changed.set()
            has_read.wait()
        connection.close()

    is_changed, has_read = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        is_changed.wait()
        try:
            assert asyncio.run(request()) == 1
        finally:
            has_read.set()
        writing.result()

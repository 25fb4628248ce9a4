"""Reads of a task, and of the thread in which its blocking code runs, do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.cache import cache

from cachebackend import RingCache
from cacheproject.demo.models import Article

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


async def row_and_list() -> None:
    """Read a row, and a list that has it, which Django reads in the thread."""

    async def read_list() -> list[Article]:
        return [article async for article in Article.cached.filter(title="old").order_by("pk")]

    row, rows = await asyncio.gather(Article.cached.aget(slug="a"), read_list())
    assert rows == [row]


async def value() -> None:
    """Read a value in a task, and while it is loaded, in the thread."""
    loading = asyncio.Event()

    async def load() -> int:
        loading.set()
        await asyncio.sleep(0.05)
        return await Article.objects.acount()

    async def read_in_thread() -> int:
        await loading.wait()
        read = sync_to_async(cache.get_or_set)
        return await read("count", Article.objects.count, 60)  # type: ignore[no-any-return]

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

"""The leases that a context must present."""

from __future__ import annotations

import asyncio
import gc
from contextvars import copy_context
from weakref import WeakSet

import pytest
from asgiref.sync import ThreadSensitiveContext

from cachebackend.backend import remembered_leases
from cachebackend.backend.remembered_leases import RememberedLeases


@pytest.fixture
def leases() -> RememberedLeases:
    """The leases of a new cache object."""
    return RememberedLeases()


def remember(leases: RememberedLeases, key: bytes, lease: bytes | None, missed_at: float = 0.0) -> None:
    leases.add({key: lease}, 0, missed_at)


def lease_of(leases: RememberedLeases, key: bytes) -> bytes | None:
    found = leases.find(key)
    assert found is not None
    return found.lease


def test_a_key_that_missed_needs_its_lease(leases: RememberedLeases) -> None:
    """Until its lease is ended."""
    assert not leases
    remember(leases, b"k", b"lease")
    assert leases
    assert b"k" in leases
    assert b"other" not in leases
    assert lease_of(leases, b"k") == b"lease"
    leases.end([b"k", b"other"])
    assert leases.find(b"k") is None
    assert not leases


def test_a_refused_key_stays_required(leases: RememberedLeases) -> None:
    """Without a lease, with the time of its miss; a key that needs no lease is not added."""
    remember(leases, b"k", b"lease", 5.0)
    leases.refuse([b"k", b"other"])
    found = leases.find(b"k")
    assert found is not None
    assert (found.lease, found.missed_at) == (None, 5.0)
    assert b"other" not in leases


def test_leases_end_by_a_condition(leases: RememberedLeases) -> None:
    """The others stay."""
    remember(leases, b"a:1", b"1")
    remember(leases, b"b:1", b"2")
    leases.end_where(lambda key: key.startswith(b"a:"))
    assert leases.all().keys() == {b"b:1"}


def test_contexts_are_separate(leases: RememberedLeases) -> None:
    """A context starts with the leases of the code that created it; later changes stay in it."""
    remember(leases, b"k", b"first")
    other = copy_context()
    other.run(remember, leases, b"l", b"second")
    leases.end([b"k"])
    assert other.run(leases.all).keys() == {b"k", b"l"}
    assert leases.all() == {}


def test_the_oldest_lease_is_forgotten(leases: RememberedLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context holds a limited number of them."""
    monkeypatch.setattr(remembered_leases, "_MAX_LEASES", 2)
    for key in (b"a", b"b", b"c"):
        remember(leases, key, b"lease")
    assert leases.all().keys() == {b"b", b"c"}


def test_a_request_gets_the_leases_of_its_tasks_that_have_ended(leases: RememberedLeases) -> None:
    """The oldest of each key; those of a task that runs, or of another request, stay with it."""

    async def get(lease: bytes, missed_at: float, end: asyncio.Event | None = None) -> None:
        remember(leases, b"k", lease, missed_at)
        if end is not None:
            await end.wait()

    async def request() -> None:
        async with ThreadSensitiveContext():
            end = asyncio.Event()
            running = asyncio.create_task(get(b"running", 1.0, end))
            await asyncio.gather(get(b"third", 3.0), get(b"second", 2.0))
            assert lease_of(leases, b"k") == b"second"
            leases.refuse([b"k"])
            assert lease_of(leases, b"k") is None
            leases.end([b"k"])
            assert leases.find(b"k") is None
            end.set()
            await running
            assert {key: each.lease for key, each in leases.all().items()} == {b"k": b"running"}

    async def two_requests() -> None:
        await asyncio.create_task(request())
        await asyncio.create_task(request())

    asyncio.run(two_requests())


def test_a_request_is_forgotten_although_its_tasks_outlive_it(leases: RememberedLeases) -> None:
    """What is kept for it must not refer to it: its tasks do, by their contexts."""
    requests = WeakSet[ThreadSensitiveContext]()

    async def outlive() -> None:
        remember(leases, b"k", b"lease")
        await has_ended.wait()

    async def serve() -> asyncio.Task[None]:
        async with ThreadSensitiveContext() as request:
            requests.add(request)
            return asyncio.create_task(outlive())

    async def main() -> None:
        tasks = [await asyncio.create_task(serve()) for _ in range(3)]
        await asyncio.sleep(0)
        assert len(leases._by_request) == 3
        has_ended.set()
        await asyncio.gather(*tasks)

    has_ended = asyncio.Event()
    asyncio.run(main())
    gc.collect()
    assert (len(requests), len(leases._by_request)) == (0, 0)

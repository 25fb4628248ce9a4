"""One alias under threads, tasks, event loops and forks: no error, and no growing number of connections."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cachebackend import RingCache
from cacheproject.services import Services
from tests.fix_services import connections_of

ROUNDS = 50


@pytest.fixture
def added(services: Services) -> Callable[[], int]:
    """Return how many more connections of ours there are than when the test began."""
    gc.collect()  # closes those of earlier tests' clients
    before = connections_of(services)
    return lambda: connections_of(services) - before


def settled(added: Callable[[], int], wanted: int) -> int:
    """Return the count once it is what is wanted; a node notices a closed socket a moment later."""
    for _ in range(5000):
        if (count := added()) == wanted:
            break
    return count


def work(cache: RingCache, worker: int, failures: list[BaseException]) -> None:
    try:
        for number in range(ROUNDS):
            cache.set(f"{worker}:{number}", number)
            assert cache.get(f"{worker}:{number}") == number
            assert len(cache.get_many([f"{worker}:{n}" for n in range(number + 1)])) == number + 1
    except BaseException as error:  # noqa: BLE001  # told by the test's thread
        failures.append(error)


async def awork(cache: RingCache, worker: int) -> None:
    for number in range(ROUNDS):
        await cache.aset(f"{worker}:{number}", number)
        assert await cache.aget(f"{worker}:{number}") == number
        assert len(await cache.aget_many([f"{worker}:{n}" for n in range(number + 1)])) == number + 1


def test_ten_threads_and_ten_tasks_share_one_alias(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """At most a connection for each thread that was busy at once, and one for the event loop."""
    failures: list[BaseException] = []
    threads = [threading.Thread(target=work, args=(ring_cache, number, failures)) for number in range(10)]

    async def tasks() -> int:
        await asyncio.gather(*[awork(ring_cache, number) for number in range(10, 20)])
        return added()

    for thread in threads:
        thread.start()
    counted = asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert failures == []
    assert counted <= 3 * (10 + 1)


def test_threads_that_come_and_go_do_not_add_connections(
    ring_cache: RingCache, added: Callable[[], int]
) -> None:
    """As under a server that makes a thread for each request."""
    failures: list[BaseException] = []
    counts = []
    for number in range(5):
        thread = threading.Thread(target=work, args=(ring_cache, number, failures))
        thread.start()
        thread.join()
        counts.append(added())
    assert failures == []
    assert counts == [3] * 5


def test_event_loops_in_turn_leave_nothing_behind(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """Each loop has one connection a node while it runs, and none after."""

    async def turn() -> int:
        await awork(ring_cache, 1)
        return added()

    for _ in range(3):
        assert asyncio.run(turn()) == 3
        assert settled(added, 0) == 0


def test_a_forked_child_has_connections_of_its_own(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """Parent and child go on at once, neither reads the other's replies, and the child's are gone with it."""
    ring_cache.set("parent", "before")
    child = os.fork()
    if child == 0:
        failures: list[BaseException] = []
        work(ring_cache, os.getpid(), failures)
        asyncio.run(awork(ring_cache, 5))
        fine = (
            not failures
            and ring_cache.client.counters.total().hits > 0
            and ring_cache.get("parent") == "before"
        )
        os._exit(0 if fine else 1)
    failures = []
    work(ring_cache, 1, failures)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert failures == []
    assert settled(added, 3) == 3


def test_a_task_that_is_cancelled_moves_nobodys_reply(ring_cache: RingCache) -> None:
    """Its reply is read and dropped; the next request on the connection gets its own."""

    async def main() -> list[Any]:
        await ring_cache.aset_many({f"k{number}": number for number in range(100)})
        tasks = [asyncio.ensure_future(ring_cache.aget(f"k{number}")) for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcome = asyncio.run(main())
    assert [value for number, value in enumerate(outcome) if number % 3] == [n for n in range(100) if n % 3]


def test_a_restarted_node_is_used_again(ring_cache: RingCache, services: Services) -> None:
    """Connections that broke with it are dropped at the first failure, which costs a miss."""
    ring_cache.set_many({f"k{number}": number for number in range(30)})
    services.restart("ring-a")
    ring_cache.get_many([f"k{number}" for number in range(30)])
    assert ring_cache.set_many({f"k{number}": number for number in range(30)}) == []
    assert len(ring_cache.get_many([f"k{number}" for number in range(30)])) == 30


@pytest.mark.hangs
def test_a_node_that_hangs_costs_a_timeout_and_no_other_nodes_hits(
    ring_cache: RingCache, services: Services
) -> None:
    """Blocking and in asyncio; nothing that it says later is taken for another's reply."""
    keys = [f"k{number}" for number in range(30)]
    ring_cache.set_many(dict.fromkeys(keys, 1))
    hanging = {key for key in keys if ring_cache.client.ring.owner(ring_cache.key_bytes(key)) == 0}
    services.stop("ring-a")
    try:
        assert set(ring_cache.get_many(keys)) == set(keys) - hanging
        assert set(asyncio.run(ring_cache.aget_many(keys))) == set(keys) - hanging
    finally:
        services.resume("ring-a")
    assert set(ring_cache.get_many(keys)) == set(keys)


def test_a_command_that_cannot_be_packed_moves_nobodys_reply(ring_cache: RingCache) -> None:
    """It raises in its own task, and the connection goes on."""

    async def main() -> list[Any]:
        keys = [f"k{number}" for number in range(50)]
        await ring_cache.aset_many({key: key for key in keys})
        for node in ring_cache.client.nodes:
            with pytest.raises(TypeError):
                await node.submit([(b"GET", object())])  # type: ignore[list-item]  # the point
        return await asyncio.gather(*[ring_cache.aget(key) for key in keys])

    assert asyncio.run(main()) == [f"k{number}" for number in range(50)]


def test_loops_that_end_without_cleaning_up_leave_nothing_growing(
    ring_cache: RingCache, added: Callable[[], int]
) -> None:
    """As some servers and tests close theirs; the next loop closes what the last one left."""
    for _ in range(10):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(awork(ring_cache, 1))
        loop.close()
    assert settled(added, 3) == 3
    asyncio.run(awork(ring_cache, 1))
    assert settled(added, 0) == 0


def test_a_value_of_many_megabytes_is_no_timeout(ring_cache: RingCache) -> None:
    """What counts is silence, not how long the whole takes."""
    value = b"x" * 30_000_000

    async def main() -> int:
        await ring_cache.aset("k", value)
        return len(await ring_cache.aget("k") or b"")

    assert asyncio.run(main()) == len(value)
    assert len(ring_cache.get("k")) == len(value)

"""One alias under threads, tasks, event loops and forks: no errors, and a bounded number of connections."""

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
    """Return how many connections of this process were opened since the test began."""
    gc.collect()  # closes the connections of earlier tests' clients
    before = connections_of(services)
    return lambda: connections_of(services) - before


def settled(added: Callable[[], int], expected: int) -> int:
    """Return the count when it is as expected; a node notices a closed socket a moment later."""
    for _ in range(5000):
        if (count := added()) == expected:
            break
    return count


def read_and_write(cache: RingCache, worker: int, failures: list[BaseException]) -> None:
    try:
        for number in range(ROUNDS):
            cache.set(f"{worker}:{number}", number)
            assert cache.get(f"{worker}:{number}") == number
            assert len(cache.get_many([f"{worker}:{n}" for n in range(number + 1)])) == number + 1
    except BaseException as error:  # noqa: BLE001  # the test's thread reports it
        failures.append(error)


async def aread_and_write(cache: RingCache, worker: int) -> None:
    for number in range(ROUNDS):
        await cache.aset(f"{worker}:{number}", number)
        assert await cache.aget(f"{worker}:{number}") == number
        assert len(await cache.aget_many([f"{worker}:{n}" for n in range(number + 1)])) == number + 1


def test_ten_threads_and_ten_tasks_share_one_alias(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """At most one connection for each thread that was busy at the same time, and one for the event loop."""
    failures: list[BaseException] = []
    threads = [
        threading.Thread(target=read_and_write, args=(ring_cache, number, failures)) for number in range(10)
    ]

    async def tasks() -> int:
        await asyncio.gather(*[aread_and_write(ring_cache, number) for number in range(10, 20)])
        return added()

    for thread in threads:
        thread.start()
    counted = asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert failures == []
    assert counted <= 3 * (10 + 1)


def test_threads_that_end_and_start_do_not_add_connections(
    ring_cache: RingCache, added: Callable[[], int]
) -> None:
    """As with a server that starts a thread for each request.

    The thread that publishes the counters may open one for each node as well.
    """
    failures: list[BaseException] = []
    counts = []
    for number in range(5):
        thread = threading.Thread(target=read_and_write, args=(ring_cache, number, failures))
        thread.start()
        thread.join()
        counts.append(added())
    assert failures == []
    assert max(counts) <= 3 + 3


def test_event_loops_that_end_leave_no_connections(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """Each loop has one connection for each node while it runs, and none after."""

    async def run() -> int:
        await aread_and_write(ring_cache, 1)
        return added()

    for _ in range(3):
        assert asyncio.run(run()) == 3
        assert settled(added, 0) == 0


def test_a_forked_child_opens_its_own_connections(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """Parent and child work at the same time; neither reads replies to the other's commands."""
    ring_cache.set("parent", "before")
    child = os.fork()
    if child == 0:
        failures: list[BaseException] = []
        read_and_write(ring_cache, os.getpid(), failures)
        asyncio.run(aread_and_write(ring_cache, 5))
        is_correct = (
            not failures
            and ring_cache.client.counters.total().hits > 0
            and ring_cache.get("parent") == "before"
        )
        os._exit(0 if is_correct else 1)
    failures = []
    read_and_write(ring_cache, 1, failures)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert failures == []
    assert settled(added, 3) == 3


def test_a_cancelled_task_does_not_shift_the_replies_of_others(ring_cache: RingCache) -> None:
    """Its reply is read and thrown away; the next command on the connection gets its own reply."""

    async def main() -> list[Any]:
        await ring_cache.aset_many({f"k{number}": number for number in range(100)})
        tasks = [asyncio.ensure_future(ring_cache.aget(f"k{number}")) for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcome = asyncio.run(main())
    assert [value for number, value in enumerate(outcome) if number % 3] == [n for n in range(100) if n % 3]


@pytest.mark.ring_of_nodes
def test_a_restarted_node_is_used_again(ring_cache: RingCache, services: Services) -> None:
    """The broken connections are closed at the first failure, which costs a miss."""
    ring_cache.set_many({f"k{number}": number for number in range(30)})
    services.restart("ring-a")
    ring_cache.get_many([f"k{number}" for number in range(30)])
    assert ring_cache.set_many({f"k{number}": number for number in range(30)}) == []
    assert len(ring_cache.get_many([f"k{number}" for number in range(30)])) == 30


@pytest.mark.hangs
@pytest.mark.ring_of_nodes
def test_a_node_that_hangs_costs_a_timeout_and_no_hits_of_other_nodes(
    ring_cache: RingCache, services: Services
) -> None:
    """Blocking and in asyncio; a reply that it sends later is not read as the reply to another command."""
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


def test_a_command_that_cannot_be_packed_does_not_shift_the_replies_of_others(ring_cache: RingCache) -> None:
    """It raises in its own task, and the connection can be used further."""

    async def main() -> list[Any]:
        keys = [f"k{number}" for number in range(50)]
        await ring_cache.aset_many({key: key for key in keys})
        for node in ring_cache.client.nodes:
            with pytest.raises(TypeError):
                await node.submit([(b"GET", object())])  # type: ignore[list-item]  # the point
        return await asyncio.gather(*[ring_cache.aget(key) for key in keys])

    assert asyncio.run(main()) == [f"k{number}" for number in range(50)]


def test_connections_of_loops_closed_without_cleanup_do_not_accumulate(
    ring_cache: RingCache, added: Callable[[], int]
) -> None:
    """As some servers and tests do; the next loop closes the connection of the last one."""
    for node in ring_cache.client.nodes:
        node.call((b"PING",))  # the thread that publishes counts uses these three connections, too
    for _ in range(10):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(aread_and_write(ring_cache, 1))
        loop.close()
    assert settled(added, 3 + 3) == 3 + 3
    asyncio.run(aread_and_write(ring_cache, 1))
    assert settled(added, 3) == 3


def test_a_value_of_many_megabytes_does_not_time_out(ring_cache: RingCache) -> None:
    """The timeout counts seconds without activity, not the whole duration."""
    value = b"x" * 30_000_000

    async def main() -> int:
        await ring_cache.aset("k", value)
        return len(await ring_cache.aget("k") or b"")

    assert asyncio.run(main()) == len(value)
    assert len(ring_cache.get("k")) == len(value)


def test_probes_keep_no_connections(ring_cache: RingCache, added: Callable[[], int]) -> None:
    """A node that serves is probed for missed deletes, and for the leases of cancelled tasks."""
    nodes = ring_cache.client.nodes
    for _ in range(10):
        for node in nodes:
            node.request_replay()
            assert node.breaker is not None
            assert node.breaker.wait_for_probe(10.0)
    assert settled(added, len(nodes)) == len(nodes)
    ring_cache.client.close()

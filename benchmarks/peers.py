"""The operations of the cache API, ours and the peers': same servers, same run, in turns."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import SplitResult, urlsplit

import hiredis

from benchmarks.bare import BareSocket
from benchmarks.contenders import OURS, OURS_ONE, ROW, caches_of, install_peers, memcacheds
from benchmarks.goals import QUICK_ROUNDS, ROUNDS, Goal, Measured
from benchmarks.herd import set_up
from benchmarks.rounds import Timing, another_core, one_core, take_turns
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

VALUES: dict[str, Any] = {"a row": ROW, "100 B": "x" * 100, "1 KB": "x" * 1024, "10 KB": "x" * 10240}
TASKS, THREADS, THREAD_CALLS = 100, 8, 50
#: The work is our cache's on three nodes.
GOALS = (
    Goal("get, a row", "Django RedisCache", 4.0, "at_least"),
    Goal("get, a row", "django-redis", 1.7, "at_least"),
    Goal("get, a row", "bare socket", 1.15, "at_most"),
    Goal("set, a row", "Django RedisCache", 4.0, "at_least"),
    Goal("set, a row", "django-redis", 1.7, "at_least"),
    Goal("set, a row", "bare socket", 1.15, "at_most"),
    Goal("get_many(100)", "django-redis", 2.4, "at_least"),
    Goal("get_many(100)", "django-redis ShardClient x3", 15.0, "at_least"),
    Goal("get_many(100)", "PyLibMC x3", 2.5, "at_least"),
    Goal("miss, lease, fill", "django-redis", 2.0, "at_least"),
    Goal("miss, lease, fill", "django-redis with its lock", 3.0, "at_least"),
    Goal(f"async get, {TASKS} tasks", "bare streams", 1.25, "at_most"),
    Goal("near hit", "Django RedisCache", 100.0, "at_least"),
    Goal("near hit", "one microsecond", 1.0, "at_most"),
)
#: The operations that are also measured with the servers on one core and the client on another.
ACROSS = ("get, a row", "set, a row", "get_many(100)", "miss, lease, fill")

Runs = dict[str, Callable[[], Any]]


def single(found: dict[str, Any], bare: BareSocket) -> dict[str, Runs]:
    """Return how each cache gets and sets one value; the bare socket pickles, as the peers do."""
    operations: dict[str, Runs] = {}
    for label, value in VALUES.items():
        key = label.replace(" ", "")
        for cache in found.values():
            cache.set(key, value, 300)
        pickled = key.encode()
        bare.call(b"SET", pickled, pickle.dumps(value, 5))
        operations[f"get, {label}"] = {name: (lambda c=c, k=key: c.get(k)) for name, c in found.items()} | {
            "bare socket": lambda k=pickled: pickle.loads(bare.call(b"GET", k))  # noqa: S301  # its own
        }
        operations[f"set, {label}"] = {
            name: (lambda c=c, k=key, v=value: c.set(k, v, 300)) for name, c in found.items()
        } | {
            "bare socket": lambda k=pickled, v=value: bare.call(
                b"SET", k, pickle.dumps(v, 5), b"PX", b"300000"
            )
        }
    return operations


def many(found: dict[str, Any]) -> dict[str, Runs]:
    """Return how each cache gets and sets many rows."""
    operations: dict[str, Runs] = {}
    for count in (10, 100):
        names = [f"key:{n}" for n in range(count)]
        data = dict.fromkeys(names, ROW)
        operations[f"set_many({count})"] = {
            n: (lambda c=c, d=data: c.set_many(d, 300)) for n, c in found.items()
        }
        operations[f"get_many({count})"] = {n: (lambda c=c, k=names: c.get_many(k)) for n, c in found.items()}
    for cache in found.values():
        cache.set_many(dict.fromkeys([f"key:{n}" for n in range(100)], ROW), 300)
    return operations


def misses(found: dict[str, Any]) -> dict[str, Runs]:
    """Return how each cache deletes, misses and fills a key; django-redis also with its lock."""

    def plain(cache: Any) -> Callable[[], Any]:
        def run() -> None:
            cache.delete("missing")
            cache.get_or_set("missing", lambda: ROW, 60)

        return run

    def locked(cache: Any) -> Callable[[], Any]:
        def run() -> None:
            cache.delete("locked")
            with cache.lock("a lock", timeout=5):
                cache.get_or_set("locked", lambda: ROW, 60)

        return run

    runs = {name: plain(cache) for name, cache in found.items() if "Shard" not in name}
    return {"miss, lease, fill": runs | {"django-redis with its lock": locked(found["django-redis"])}}


def near_hits(near: Any, peer: Any) -> dict[str, Runs]:
    """Return how a string is read from a near copy, from a peer without one, and from LocMem."""
    from django.core.cache.backends.locmem import LocMemCache

    value, local = "x" * 100, LocMemCache("bench", {})
    for cache in (near, peer, local):
        cache.set("near", value, 300)
    client = near.client
    for _ in range(200):  # a copy is stored only after the nodes send invalidations
        before = client.counters.total().near_hits
        near.get("near")
        if client.counters.total().near_hits > before:
            break
        time.sleep(0.02)
    runs: Runs = {
        OURS: lambda: near.get("near"),
        "Django RedisCache": lambda: peer.get("near"),
        "LocMem": lambda: local.get("near"),
    }
    return {"near hit": runs}


def in_threads(found: dict[str, Any]) -> dict[str, Runs]:
    """Return how threads get a row, each ``THREAD_CALLS`` times."""

    def spread(cache: Any) -> Callable[[], Any]:
        def read() -> None:
            for _ in range(THREAD_CALLS):
                cache.get("arow")

        def run() -> None:
            threads = [threading.Thread(target=read) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return run

    names = (OURS, OURS_ONE, "Django RedisCache", "django-redis", "django-valkey")
    return {f"get, {THREADS} threads": {name: spread(found[name]) for name in names}}


def in_tasks(found: dict[str, Any], url: str, rounds: int) -> dict[str, list[float]]:
    """Return the time of an asynchronous get with a hundred concurrent tasks."""
    loop = asyncio.new_event_loop()
    streams = loop.run_until_complete(_streams(urlsplit(url)))

    def at_once(get: Callable[[int], Any]) -> Callable[[], Any]:
        async def run() -> None:
            await asyncio.gather(*[get(number) for number in range(TASKS)])

        return lambda: loop.run_until_complete(run())

    async def bare(number: int) -> Any:
        reader, writer, parser = streams[number]
        writer.write(hiredis.pack_command((b"GET", b"arow")))  # type: ignore[arg-type]  # as above
        while (reply := parser.gets()) is False:
            parser.feed(await reader.read(65536))
        return pickle.loads(reply)  # noqa: S301  # its own

    names = (OURS, OURS_ONE, "Django RedisCache", "django-redis")
    runs: Runs = {name: at_once(lambda _, c=found[name]: c.aget("arow")) for name in names}
    try:
        return take_turns(runs | {"bare streams": at_once(bare)}, rounds, per_call=TASKS)
    finally:
        for _, writer, _ in streams:
            writer.close()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _streams(node: SplitResult) -> list[tuple[Any, Any, Any]]:
    streams = []
    for _ in range(TASKS):
        reader, writer = await asyncio.open_connection(node.hostname, node.port)
        writer.write(f"AUTH {node.password}\r\n".encode())
        await reader.readline()
        streams.append((reader, writer, hiredis.Reader()))
    return streams


def operations_in_turns(services: Services, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the microseconds of a call of each operation in each round, by cache."""
    with memcacheds(3) as endpoints:
        found = caches_of(services, endpoints)
        near = found.pop("near")
        url = services.ring_urls[0].partition("?")[0]
        operations = single(found, BareSocket(url)) | many(found) | misses(found)
        measured = {operation: take_turns(runs, rounds) for operation, runs in operations.items()}
        for operation, runs in in_threads(found).items():
            measured[operation] = take_turns(runs, rounds, THREADS * THREAD_CALLS)
        measured[f"async get, {TASKS} tasks"] = in_tasks(found, url, rounds)
        with another_core() as is_another:
            for operation in ACROSS if is_another else ():
                measured[f"{operation}, across cores"] = take_turns(operations[operation], rounds)
        # Last, because from then on the nodes send this process an invalidation for every write
        hits = near_hits(near, found["Django RedisCache"])
        measured |= {operation: take_turns(runs, rounds) for operation, runs in hits.items()}
        near.client.close()
        return measured


def measure(*, quick: bool) -> Measured:
    """Measure each operation with our cache and with those of the peers."""
    warnings.simplefilter("ignore")  # of the peers
    install_peers()
    with one_core(), Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        found = operations_in_turns(services, QUICK_ROUNDS if quick else ROUNDS)
    timings = {
        operation: {way: asdict(Timing.of(each)) for way, each in ways.items()}
        for operation, ways in found.items()
    }
    found["near hit"]["one microsecond"] = [1.0] * len(found["near hit"][OURS])
    ratios = {
        (goal.work, goal.compared_with): goal.ratios(found[goal.work][OURS], other)
        for goal in GOALS
        if (other := found[goal.work].get(goal.compared_with)) is not None
    }
    return Measured(ratios, {"microseconds": timings})

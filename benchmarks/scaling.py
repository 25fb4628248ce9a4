"""Costs that grow with nodes, processes and keys, and costs that must not; and the memory of a key."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks.bare import BareSocket
from benchmarks.contenders import ROW, install_peers
from benchmarks.goals import QUICK_ROUNDS, ROUNDS, Goal, Measured
from benchmarks.herd import set_up
from benchmarks.rounds import Timing, one_core, take_turns
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

NODES, QUICK_NODES = (1, 3, 10, 25, 50), (1, 3, 10)
#: The number of nodes with which many nodes are compared.
FEW = 3
GOALS = (
    Goal(
        "get, the most nodes",
        f"get, {FEW} nodes",
        1.05,
        "at_most",
        "Reads of the same keys on bare sockets slow down by about the same share, because each node has a "
        "socket and a few objects, and with more of them fewer are in the CPU's caches.",
    ),
)
#: The servers whose databases are the nodes, so that only nodes grow more; and the databases of each.
SERVERS, DATABASES = 4, 16
#: How often a round reads each key: the first time, its connection is idle and is checked.
REPEATS = 8
PROCESSES, QUICK_PROCESSES = (1, 2, 4, 8), (1, 2)
KEYS, QUICK_KEYS = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)
MEMORY_KEYS, BATCH = 20_000, 2_000
PROCESS_SECONDS, QUICK_PROCESS_SECONDS = 2.0, 0.5


def measure(*, quick: bool) -> Measured:
    """Measure gets by nodes, by keys and by processes, and the bytes that a key takes."""
    install_peers()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    sizes = QUICK_NODES if quick else NODES
    results: dict[str, Any] = {}
    with one_core():
        with Services(ring=SERVERS, queue=0, postgres=False) as services:
            set_up(services)
            nodes = _databases(services.ring_urls)
            results["nodes"] = by_nodes(nodes, sizes, rounds)[0]
            # The two that are compared are measured in turns of their own, because the difference is small
            results["growth"], gets = by_nodes(nodes, (FEW, max(sizes)), 3 * rounds)
        with Services(ring=max(sizes), queue=0, postgres=False) as services:
            results["servers"] = by_nodes(services.ring_urls, sizes, rounds)[0]
        with Services(ring=3, queue=0, postgres=False) as services:
            results["bytes_a_key"] = memory(services.ring_urls)
            results["keys"] = by_keys(services.ring_urls, QUICK_KEYS if quick else KEYS, rounds)
    with Services(ring=3, queue=0, postgres=False) as services:
        seconds = QUICK_PROCESS_SECONDS if quick else PROCESS_SECONDS
        processes = QUICK_PROCESSES if quick else PROCESSES
        results["processes"] = by_processes(services.ring_urls, processes, seconds)
    [goal] = GOALS
    ratios = goal.ratios(gets[f"get {max(sizes)}"], gets[f"get {FEW}"])
    return Measured({(goal.work, goal.compared_with): ratios}, results)


def _databases(urls: list[str]) -> list[str]:
    """Return the URLs of the servers' databases, each one a node, alternating between the servers."""
    endpoints = [url.partition("/0?")[0] for url in urls]
    return [
        f"{endpoint}/{db}?name=n{server}-{db}"
        for db in range(DATABASES)
        for server, endpoint in enumerate(endpoints)
    ]


def by_nodes(
    urls: list[str], sizes: tuple[int, ...], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """Return the times of a get and a get_many(100), by number of nodes, and of a get on bare sockets.

    Returns:
        The medians in microseconds, and the gets in each round.
    """
    from cachebackend import RingCache

    names = [f"key:{number}" for number in range(100)]
    repeated = names * REPEATS
    caches = {size: RingCache(urls[:size], {"KEY_PREFIX": f"n{size}"}) for size in sizes}
    for cache in caches.values():
        cache.set_many(dict.fromkeys(names, ROW), 300)

    def one_after_another(cache: Any) -> Callable[[], Any]:
        def run() -> None:
            for name in repeated:
                cache.get(name)

        return run

    sockets = [BareSocket(url) for url in urls]

    def on_bare_sockets(cache: Any) -> Callable[[], Any]:
        keys = [cache.key_bytes(name) for name in names]
        placed = [(sockets[cache.client.ring.owner(key)], key) for key in keys] * REPEATS

        def run() -> None:
            for bare, key in placed:
                bare.call(b"GET", key)

        return run

    ways = {f"get {size}": one_after_another(cache) for size, cache in caches.items()}
    ways |= {f"bare {size}": on_bare_sockets(cache) for size, cache in caches.items()}
    gets = take_turns(ways, rounds, per_call=len(repeated))
    many = take_turns({str(s): (lambda c=c: c.get_many(names)) for s, c in caches.items()}, rounds)
    for cache in caches.values():
        cache.client.close()
    medians = {
        str(size): {
            "get": Timing.of(gets[f"get {size}"]).median,
            "bare socket": Timing.of(gets[f"bare {size}"]).median,
            "get_many(100)": Timing.of(many[str(size)]).median,
        }
        for size in sizes
    }
    return medians, gets


def by_keys(urls: list[str], sizes: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Return the time of a get of one key, by number of keys on three nodes."""
    from cachebackend import RingCache

    cache = RingCache(urls, {"KEY_PREFIX": "k"})
    found, stored = {}, 0
    for size in sizes:
        while stored < size:
            end = min(size, stored + BATCH)
            cache.set_many({f"key:{number}": "x" * 100 for number in range(stored, end)}, 3600)
            stored = end
        drawn = [f"key:{random.randrange(size)}" for _ in range(2000)]
        ways = {"get": (lambda some=drawn: [cache.get(name) for name in some])}
        gets = take_turns(ways, max(5, rounds // 2), per_call=len(drawn))["get"]
        found[str(size)] = Timing.of(gets).median
    cache.client.close()
    return found


def by_processes(urls: list[str], sizes: tuple[int, ...], seconds: float) -> dict[str, int]:
    """Return the gets a second of several processes together, by number of processes, on three nodes."""
    from cachebackend import RingCache

    cache = RingCache(urls, {"KEY_PREFIX": "p"})
    cache.set("row", ROW, 300)
    fork = multiprocessing.get_context("fork")
    found = {}
    for size in sizes:
        gate, done = fork.Barrier(size), fork.Value("l", 0)

        def operation(gate: Any = gate, done: Any = done) -> None:
            count = 0
            gate.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                cache.get("row")
                count += 1
            with done.get_lock():
                done.value += count

        processes = [fork.Process(target=operation) for _ in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found[str(size)] = round(done.value / seconds)
    return found


def memory(urls: list[str]) -> dict[str, dict[str, float]]:
    """Return the bytes of a node's memory that a key takes, with its value, by the cache that wrote it."""
    from django.core.cache.backends.redis import RedisCache
    from django_redis.cache import RedisCache as DjangoRedis

    from cachebackend import RingCache

    ring = RingCache(urls, {"KEY_PREFIX": "memory"})
    plain = urls[0].partition("?")[0]
    caches = {
        "ringcache": ring,
        "Django RedisCache": RedisCache(plain, {"KEY_PREFIX": "memory"}),
        "django-redis": DjangoRedis(plain, {"KEY_PREFIX": "memory"}),
    }

    def used() -> int:
        infos = [node.call((b"INFO", b"memory")) for node in ring.client.nodes]
        return sum(int(info.partition(b"used_memory:")[2].split()[0]) for info in infos)

    found: dict[str, dict[str, float]] = {}
    for label, value in (("a row", ROW), ("100 B", "x" * 100)):
        found[label] = {}
        for name, cache in caches.items():
            for node in ring.client.nodes:
                node.call((b"FLUSHALL", b"SYNC"))
            empty = used()
            for start in range(0, MEMORY_KEYS, BATCH):
                cache.set_many({f"key:{number}": value for number in range(start, start + BATCH)}, 3600)
            found[label][name] = round((used() - empty) / MEMORY_KEYS, 1)
    ring.client.close()
    return found

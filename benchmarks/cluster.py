"""A cluster beside our ring of three plain nodes and beside redis-py's client, and what a failover costs."""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contenders import ROW
from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.herd import set_up
from benchmarks.ring import KEYS, least
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

OURS, RING, PEER = "cluster", "ring of three", "RedisCluster"
#: The same number of servers as the cluster has, with the same work.
REPLICATED = "ring of three with replicas"
MANY = 100
OPERATIONS = ("get", "set", f"get_many({MANY})", "get_or_set")
_SERVERS = (
    "Each primary of a cluster sends its writes to a replica, which shares the core with it here. The "
    "rows below compare it with a ring whose nodes have replicas, too."
)
_SLOTS = (
    "The servers find the slot of each key, and the client looks for a redirection in each reply and reads "
    "the owner of a slot that may change."
)
_SHARED = (
    "Both clients wait for the same servers, which share one core with them: about half of a get of ours, "
    "and a third of a get_many(100), is the servers' part."
)
_PIPELINE = (
    "A cluster takes MGET only for keys of one slot, so there is a command for each key, which the servers "
    "alone take half as long again to answer."
)
GOALS = (
    Goal(f"get, {OURS}", f"get, {PEER}", 3, "at_least", _SHARED),
    Goal(f"set, {OURS}", f"set, {PEER}", 2, "at_least"),
    Goal(f"get_many({MANY}), {OURS}", f"get_many({MANY}), {PEER}", 5, "at_least", _SHARED),
    Goal(f"get_or_set, {OURS}", f"get_or_set, {PEER}", 2, "at_least"),
    Goal(f"get, {OURS}", f"get, {RING}", 1.05, "at_most", _SLOTS),
    Goal(f"set, {OURS}", f"set, {RING}", 1.05, "at_most", _SERVERS),
    Goal(f"get_many({MANY}), {OURS}", f"get_many({MANY}), {RING}", 1.05, "at_most", _PIPELINE),
    Goal(f"get_or_set, {OURS}", f"get_or_set, {RING}", 1.05, "at_most", _SLOTS),
    Goal(f"get, {OURS}", f"get, {REPLICATED}", 1.05, "at_most", _SLOTS),
    Goal(f"set, {OURS}", f"set, {REPLICATED}", 1.05, "at_most", _SLOTS),
    Goal(f"get_or_set, {OURS}", f"get_or_set, {REPLICATED}", 1.05, "at_most", _SLOTS),
)
THREADS, FAILOVER_KEYS = 8, 1000
#: Seconds with reads after the promotion.
AFTER_SECONDS = 3.0


def measure(*, quick: bool) -> Measured:
    """Measure reads and writes of a row, the routing of a key, and reads during a failover."""
    with one_core(), Services(ring="cluster", queue=0, postgres=False) as services:
        set_up(services)
        with (
            Services(ring=3, queue=0, postgres=False) as plain,
            Services(ring=3, queue=0, postgres=False) as replicated,
        ):
            add_replicas(replicated)
            from benchmarks.redis_cluster import RedisClusterCache
            from cachebackend import RingCache

            server = services.ring_urls[0].replace("redis+cluster://", "redis://").partition(",")[0]
            caches = {
                OURS: RingCache(services.ring_urls, {"KEY_PREFIX": "bench"}),
                RING: RingCache(plain.ring_urls, {"KEY_PREFIX": "bench"}),
                REPLICATED: RingCache(replicated.ring_urls, {"KEY_PREFIX": "bench"}),
                PEER: RedisClusterCache(server, {"KEY_PREFIX": "peer"}),
            }
            ways: dict[str, Any] = {}
            for name, cache in caches.items():
                ways |= _ways(name, cache)
            ratios = measure_ratios(GOALS, ways, quick=quick)
        return Measured(ratios, {"route_ns": round(route_ns()), "failover": failover(services)})


def add_replicas(services: Services) -> None:
    """Give each node a replica, as a primary of a cluster has one; return when all follow their primaries."""
    from redis import Redis

    for url in services.ring_servers:
        address = urlsplit(url)
        name = f"replica of {address.port}"
        settings = ("--replicaof", f"{address.hostname} {address.port}", "--repl-diskless-sync-delay", "0")
        services.add_node(name, *settings)
        with Redis.from_url(services.node_url(name).partition("?")[0]) as replica:
            while replica.info("replication")["master_link_status"] != "up":
                time.sleep(0.05)


def _ways(name: str, cache: Any) -> dict[str, Any]:
    """Return the calls of one contender; all keys are stored."""
    keys = [f"row:{number}" for number in range(MANY)]
    for key in keys:
        cache.set(key, ROW, 3600)
    # Each asks for the same keys in the same order, so each owner is asked as often
    gets, sets, loads = (itertools.cycle(keys).__next__ for _ in range(3))
    return {
        f"get, {name}": lambda: cache.get(gets()),
        f"set, {name}": lambda: cache.set(sets(), ROW, 3600),
        f"get_many({MANY}), {name}": lambda: cache.get_many(keys),
        f"get_or_set, {name}": lambda: cache.get_or_set(loads(), dict, 3600),
    }


def route_ns() -> float:
    """Return the nanoseconds that it takes to find the owner of a key."""
    from cachebackend.ring import ClusterRing

    owner, some = ClusterRing().owner, KEYS[:500]

    def route() -> None:
        for key in some:
            owner(key)

    return min(least(route) for _ in range(20)) / len(some) * 1e9


def failover(services: Services) -> dict[str, float]:
    """Kill a primary while threads read; return what its failover has cost them.

    The slowest reads wait for a reply that does not come, for the socket timeout. No read should take longer
    than twice that.
    """
    from cachebackend import RingCache

    cache = RingCache(services.ring_urls, {"KEY_PREFIX": "failover"})
    keys = [f"key:{number}" for number in range(FAILOVER_KEYS)]
    cache.set_many(dict.fromkeys(keys, "value"), 3600)
    limit = 2 * cache.client.context.options.socket_timeout
    seconds: list[list[float]] = [[] for _ in range(THREADS)]
    errors, is_over = [], threading.Event()

    def read(own: list[float], generator: random.Random) -> None:
        while not is_over.is_set():
            started = time.perf_counter()
            try:
                cache.get_or_set(generator.choice(keys), "value", 3600)
            except Exception as error:  # noqa: BLE001  # it is counted
                errors.append(error)
            own.append(time.perf_counter() - started)

    threads = [
        threading.Thread(target=read, args=(own, random.Random(number))) for number, own in enumerate(seconds)
    ]
    for thread in threads:
        thread.start()
    cluster = services.cluster
    assert cluster is not None  # noqa: S101  # the services were started as one
    primary = cluster.primaries[0]
    services.kill(primary)
    cluster.wait_until_replaced(primary)
    is_over.wait(AFTER_SECONDS)
    is_over.set()
    for thread in threads:
        thread.join()
    reads = [each for own in seconds for each in own]
    return {
        "reads": len(reads),
        "errors": len(errors),
        "slowest_ms": round(max(reads) * 1e3, 1),
        "slower_than_two_timeouts": sum(each > limit for each in reads),
    }

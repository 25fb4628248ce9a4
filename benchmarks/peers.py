"""The cache compared with its peers: same servers, same run, in turns; medians and ratios.

``python -m benchmarks.peers`` prints a table and writes ``benchmarks/results.json``,
``docs/benchmarks.md`` and its charts; ``--quick`` runs fewer rounds and writes nothing. Exits
with 1 if a ratio is below what is required.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import hiredis

from benchmarks.bare import BareSocket
from benchmarks.herd import set_up
from benchmarks.page import machine, write
from benchmarks.rounds import Timing, another_core, one_core, take_turns
from benchmarks.scaling import FEW, scaling
from cacheproject.services import Services

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".cache" / "peers"
ROUNDS, QUICK_ROUNDS = 21, 7
#: A row of a model, as ``Model.cached`` and the peers' users cache one: 570 bytes pickled.
ROW = {
    "id": 12345,
    "slug": "some-product-slug-12345",
    "title": "A reasonable product title for a row",
    "sku": "SKU-0012345",
    "price": Decimal("199.99"),
    "stock": 42,
    "is_active": True,
    "created_at": datetime(2024, 5, 1, 12, 30, 15, 123456, tzinfo=UTC),
    "updated_at": datetime(2025, 5, 1, 12, 30, 15, 123456, tzinfo=UTC),
    "category_id": 77,
    "owner_id": 991,
    "description": "x" * 200,
}
VALUES: dict[str, Any] = {"a row": ROW, "100 B": "x" * 100, "1 KB": "x" * 1024, "10 KB": "x" * 10240}
#: For each operation the peers, and how many times faster it must be.
REQUIRED = {
    "get, a row": {"Django RedisCache": 4.0, "django-redis": 1.7},
    "set, a row": {"Django RedisCache": 4.0, "django-redis": 1.7},
    "get_many(100)": {"django-redis": 2.4, "django-redis ShardClient x3": 15.0, "PyLibMC x3": 2.5},
    "near hit": {"Django RedisCache": 100.0},
    "miss, lease, fill": {"django-redis": 2.0, "django-redis with its lock": 3.0},
}
#: For each operation and lower bound, how many times as slow it may be.
AT_MOST = {
    ("get, a row", "bare socket"): 1.15,
    ("set, a row", "bare socket"): 1.15,
    ("async get, 100 tasks", "bare streams"): 1.25,
}
#: How many times as slow a get on many nodes may be as on few, with as many servers.
MAX_GROWTH = 1.05
#: The operations that are also measured with the servers on one core and the client on another.
ACROSS = ("get, a row", "set, a row", "get_many(100)", "miss, lease, fill")
OURS, OURS_ONE = "ringcache x3", "ringcache, one node"
TASKS, THREADS, THREAD_CALLS = 100, 8, 50

Runs = dict[str, Callable[[], Any]]


def install_peers() -> None:
    """Install the peers into their own folder, on first use."""
    requirements_file = ROOT / "benchmarks" / "peers.txt"
    installed = PEERS / ".installed"
    if not installed.exists() or installed.read_text() != requirements_file.read_text():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", str(PEERS), "-r", str(requirements_file)], check=True)
        installed.write_text(requirements_file.read_text())
    sys.path.insert(0, str(PEERS))


@contextmanager
def memcacheds(count: int) -> Iterator[list[str]]:
    """Run memcached servers, if it is installed; yield their endpoints."""
    program = shutil.which("memcached")
    processes, endpoints = [], []
    for _ in range(count if program else 0):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [str(program), "-u", "nobody", "-l", "127.0.0.1", "-p", str(port), "-U", "0"]
        processes.append(subprocess.Popen(command))
        endpoints.append(f"127.0.0.1:{port}")
    try:
        for endpoint in endpoints:
            _wait_for_port(endpoint)
        yield endpoints
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait_for_port(endpoint: str) -> None:
    host, _, port = endpoint.partition(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port))).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


def caches_of(services: Services, memcached: list[str]) -> dict[str, Any]:
    """Return the caches to compare, all on the same servers; ``near`` is ours with a near cache."""
    from django.core.cache.backends.redis import RedisCache
    from django_redis.cache import RedisCache as DjangoRedis
    from django_valkey.cache import ValkeyCache

    from cachebackend import RingCache

    urls = [url.partition("?")[0] for url in services.ring_urls]
    shard = {"CLIENT_CLASS": "django_redis.client.ShardClient"}
    found = {
        OURS: RingCache(services.ring_urls, {"KEY_PREFIX": "ours"}),
        OURS_ONE: RingCache(services.ring_urls[:1], {"KEY_PREFIX": "one"}),
        "near": RingCache(services.ring_urls, {"KEY_PREFIX": "near", "OPTIONS": {"near": {}}}),
        "Django RedisCache": RedisCache(urls[0], {"KEY_PREFIX": "django"}),
        "django-redis": DjangoRedis(urls[0], {"KEY_PREFIX": "dr"}),
        "django-redis ShardClient x3": DjangoRedis(urls, {"KEY_PREFIX": "drs", "OPTIONS": shard}),
        "django-valkey": ValkeyCache(urls[0].replace("redis://", "valkey://"), {"KEY_PREFIX": "dv"}),
    }
    if memcached:
        from django.core.cache.backends.memcached import PyLibMCCache, PyMemcacheCache

        behaviors = {"binary": True, "behaviors": {"ketama": True, "tcp_nodelay": True}}
        found["PyLibMC x3"] = PyLibMCCache(memcached, {"OPTIONS": behaviors})
        found["PyMemcache x3"] = PyMemcacheCache(memcached, {})
    return found


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


def in_tasks(found: dict[str, Any], url: str, rounds: int) -> dict[str, Timing]:
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


def measure(services: Services, rounds: int) -> dict[str, dict[str, Timing]]:
    """Return the time of a call of each operation, by cache."""
    with memcacheds(3) as endpoints:
        found = caches_of(services, endpoints)
        near = found.pop("near")
        url = services.ring_urls[0].partition("?")[0]
        operations = single(found, BareSocket(url)) | many(found) | misses(found) | in_threads(found)
        measured = {operation: take_turns(runs, rounds) for operation, runs in operations.items()}
        threads = f"get, {THREADS} threads"
        measured[threads] = {
            way: Timing(*(round(each / THREADS / THREAD_CALLS, 2) for each in (t.median, t.low, t.high)))
            for way, t in measured[threads].items()
        }
        measured[f"async get, {TASKS} tasks"] = in_tasks(found, url, rounds)
        with another_core() as is_another:
            for operation in ACROSS if is_another else ():
                measured[f"{operation}, across cores"] = take_turns(operations[operation], rounds)
        # Last, because from then on the nodes send this process an invalidation for every write
        hits = near_hits(near, found["Django RedisCache"])
        measured |= {operation: take_turns(runs, rounds) for operation, runs in hits.items()}
        near.client.close()
        return measured


def requirements(found: dict[str, dict[str, Timing]]) -> list[dict[str, Any]]:
    """Return each required ratio, and whether it is met; our cache is on three nodes."""
    rows: list[dict[str, Any]] = []
    for operation, peers in REQUIRED.items():
        for peer, least in peers.items():
            if peer in found[operation]:
                times = found[operation][peer].median / found[operation][OURS].median
                spread = [
                    found[operation][peer].low / found[operation][OURS].high,
                    found[operation][peer].high / found[operation][OURS].low,
                ]
                rows.append(
                    {
                        "work": operation,
                        "beside": peer,
                        "times": times,
                        "spread": spread,
                        "required": f"≥ {least:g}",
                    }
                )
                rows[-1]["met"] = times >= least
    for (operation, floor), maximum in AT_MOST.items():
        ours, bare = found[operation][OURS], found[operation][floor]
        times, spread = ours.median / bare.median, [ours.low / bare.high, ours.high / bare.low]
        rows.append(
            {
                "work": operation,
                "beside": floor,
                "times": times,
                "spread": spread,
                "required": f"≤ {maximum:g}",
            }
        )
        rows[-1]["met"] = times <= maximum
    ours = found["near hit"][OURS]
    rows.append({"work": "near hit", "beside": "one microsecond", "times": ours.median, "required": "≤ 1"})
    rows[-1] |= {"spread": [ours.low, ours.high], "met": ours.median <= 1.0}
    return rows


def growth_requirement(nodes: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return the ratio of a get on the most nodes to one on few, and whether it is met."""
    maximum = max(nodes, key=int)
    times = nodes[maximum]["get"] / nodes[str(FEW)]["get"]
    row = {
        "work": f"get, {maximum} nodes",
        "beside": f"{FEW} nodes",
        "times": times,
        "spread": [times, times],
    }
    return [row | {"required": f"≤ {MAX_GROWTH:g}", "met": times <= MAX_GROWTH}]


def run_benchmark(name: str) -> dict[str, Any]:
    """Return the results of another benchmark, run in its own process."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    results: dict[str, Any] = json.loads(lines[-1]) if lines else {"missed": [f"benchmarks.{name} failed"]}
    return results


def main() -> None:
    """Measure, print, write, and exit with 0 if every ratio meets the requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing is written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers
    install_peers()
    with one_core(), Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        found = measure(services, QUICK_ROUNDS if options.quick else ROUNDS)
    grows = scaling(ROW, quick=options.quick)
    rows = requirements(found) + growth_requirement(grows["growth"])
    results: dict[str, Any] = {
        "machine": machine(PEERS),
        "microseconds": {
            operation: {n: asdict(t) for n, t in each.items()} for operation, each in found.items()
        },
        "ratios": rows,
        "scaling": grows,
        "near_lag": {} if options.quick else run_benchmark("near_lag"),
        "enqueue": {"missed": []} if options.quick else run_benchmark("enqueue"),
        "behind": {"missed": []} if options.quick else run_benchmark("behind"),
    }
    if options.json:
        print(json.dumps(results))
    else:
        for row in rows:
            beside = f"{row['work']:22} {row['beside']:28} {row['times']:8.2f}"
            print(f"{beside}  (required {row['required']})  {'met' if row['met'] else 'missed'}")
        print(json.dumps(results["scaling"]))
        print(json.dumps([results["near_lag"], results["enqueue"], results["behind"]]))
    if not options.quick:
        write(results, ROOT)
    missed = results["enqueue"]["missed"] + results["behind"]["missed"]
    sys.exit(bool(missed) or not all(row["met"] for row in rows))


if __name__ == "__main__":
    main()

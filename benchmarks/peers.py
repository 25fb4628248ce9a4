"""The cache beside what people use today: same servers, same run, taking turns; medians and ratios.

``python -m benchmarks.peers`` prints a table and writes ``benchmarks/results.json`` and
``docs/benchmarks.md``; ``--quick`` takes fewer rounds and writes nothing. Exits with 1 if a ratio
is below what is required.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis

from benchmarks.herd import set_up
from cacheproject.services import Services

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".cache" / "peers"
ROUNDS, QUICK_ROUNDS = 15, 5
ROW = {"id": 7, "slug": "a-row", "title": "x" * 60, "price": "12.50", "tags": ["a", "b"], "views": 123456}
#: What is measured, beside whom, and how many times faster it must be.
REQUIRED = {
    "get, a row": {"Django RedisCache": 4.0, "django-redis": 1.7},
    "set, a row": {"Django RedisCache": 4.0, "django-redis": 1.7},
    "get_many(100), 3 nodes": {"django-redis": 2.4, "django-redis ShardClient": 15.0},
    "near hit": {"Django RedisCache": 100.0},
    "miss, lease, fill": {"django-redis": 2.0},
}
#: At most so many times what a bare socket takes.
MOST_OF_BARE = 1.15
OURS = "ringcache"


def install_peers() -> None:
    """Install the peers into a folder of their own, on first use."""
    wanted = ROOT / "benchmarks" / "peers.txt"
    made = PEERS / ".made"
    if not made.exists() or made.read_text() != wanted.read_text():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", str(PEERS), "-r", str(wanted)], check=True)
        made.write_text(wanted.read_text())
    sys.path.insert(0, str(PEERS))


def caches_of(services: Services) -> dict[str, Any]:
    """Return the caches to compare, each on the same servers."""
    from django.core.cache.backends.redis import RedisCache
    from django_redis.cache import RedisCache as DjangoRedis

    from cachebackend import RingCache

    urls = [url.partition("?")[0] for url in services.ring_urls]
    found = {
        OURS: RingCache(services.ring_urls, {"KEY_PREFIX": "ours"}),
        "near": RingCache(services.ring_urls, {"KEY_PREFIX": "near", "OPTIONS": {"near": {}}}),
        "Django RedisCache": RedisCache(urls[0], {"KEY_PREFIX": "django"}),
        "django-redis": DjangoRedis(urls[0], {"KEY_PREFIX": "dr"}),
        "django-redis ShardClient": DjangoRedis(
            urls, {"KEY_PREFIX": "drs", "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"}}
        ),
    }
    try:
        from django_valkey.cache import ValkeyCache
    except ImportError:
        return found
    return found | {
        "django-valkey": ValkeyCache(urls[0].replace("redis://", "valkey://"), {"KEY_PREFIX": "dv"})
    }


class BareSocket:
    """GET and SET on a socket with hiredis, and nothing else: the floor."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("redis://").partition("/")[0].partition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, *command: bytes) -> Any:
        """Send a command and return its reply."""
        self._socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows one argument
        reply = self._reader.gets()
        while reply is False:
            self._reader.feed(self._socket.recv(65536))
            reply = self._reader.gets()
        return reply


def ways(services: Services) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return for each piece of work how each does it, once."""
    found = caches_of(services)
    names = [f"key:{n}" for n in range(100)]
    for cache in found.values():
        cache.set("row", ROW)
        cache.set_many(dict.fromkeys(names, ROW))
    bare = BareSocket(services.ring_urls[0].partition("?")[0])
    from cachebackend.codec import Codec

    record = Codec("auto").encode(ROW)
    bare.call(b"SET", b"row", record)
    near, plain = found.pop("near"), {name: cache for name, cache in found.items() if "Shard" not in name}
    near.get("row")
    time.sleep(0.5)  # until the nodes tell what changes
    near.set("near", "x" * 100)
    near.get("near")

    def miss(cache: Any) -> Callable[[], Any]:
        def run() -> None:
            cache.delete("missing")
            cache.get_or_set("missing", lambda: ROW, 60)

        return run

    return {
        "get, a row": {name: (lambda c=c: c.get("row")) for name, c in plain.items()}
        | {"bare socket": lambda: bare.call(b"GET", b"row")},
        "set, a row": {name: (lambda c=c: c.set("row", ROW, 300)) for name, c in plain.items()}
        | {"bare socket": lambda: bare.call(b"SET", b"row", record, b"PX", b"300000")},
        "get_many(100), 3 nodes": {name: (lambda c=c: c.get_many(names)) for name, c in found.items()},
        "set_many(100), 3 nodes": {
            name: (lambda c=c: c.set_many(dict.fromkeys(names, ROW), 300)) for name, c in found.items()
        },
        "near hit": {OURS: lambda: near.get("near")}
        | {"Django RedisCache": lambda c=plain["Django RedisCache"]: c.get("row")},
        "miss, lease, fill": {name: miss(cache) for name, cache in plain.items()},
    }


def measure(services: Services, rounds: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of each piece of work, by who does it: medians of rounds that take turns."""
    found: dict[str, dict[str, float]] = {}
    for work, runs in ways(services).items():
        calls = 20_000 if work == "near hit" else 60 if "many" in work else 400
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                count = calls if name == OURS or work != "near hit" else 400
                begun = time.perf_counter()
                for _ in range(count):
                    run()
                taken[name].append((time.perf_counter() - begun) / count * 1e6)
        found[work] = {name: statistics.median(each) for name, each in taken.items()}
    return found


def judged(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return each required ratio, and whether it is met."""
    rows = [
        {"work": work, "beside": peer, "times": found[work][peer] / found[work][OURS], "required": least}
        for work, peers in REQUIRED.items()
        for peer, least in peers.items()
    ]
    for row in rows:
        row["met"] = row["times"] >= row["required"]
    for work in ("get, a row", "set, a row"):
        times = found[work][OURS] / found[work]["bare socket"]
        rows.append(
            {"work": work, "beside": "bare socket, at most", "times": times, "required": MOST_OF_BARE}
        )
        rows[-1]["met"] = times <= MOST_OF_BARE
    return rows


def _mark(row: dict[str, Any]) -> str:
    return "met" if row["met"] else "missed"


def page(found: dict[str, dict[str, float]], rows: list[dict[str, Any]], machine: str) -> str:
    """Return the page of the documentation."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `python -m benchmarks.peers` on {machine}. All on the same servers in one run, taking",
        "turns; medians. Absolute figures are this machine's; the ratios are what to look at.",
        "",
        "| work | beside | times faster | required | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row["work"], row["beside"], f"{row['times']:.2f}", f"{row['required']:g}", _mark(row))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Microseconds a call", ""]
    for work, each in found.items():
        lines += [f"**{work}**", "", "| | µs |", "|---|---|"]
        lines += [
            f"| {name} | {value:,.1f} |" for name, value in sorted(each.items(), key=lambda item: item[1])
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write, and exit with 0 if every ratio is what is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing is written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    install_peers()
    with Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        found = measure(services, QUICK_ROUNDS if options.quick else ROUNDS)
    rows = judged(found)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    told = {"machine": machine, "microseconds": found, "ratios": rows}
    if options.json:
        print(json.dumps(told))
    else:
        for row in rows:
            beside = f"{row['work']:26} {row['beside']:26} {row['times']:8.2f}"
            print(f"{beside}  (required {row['required']:g})  {_mark(row)}")
    if not options.quick:
        (ROOT / "benchmarks" / "results.json").write_text(json.dumps(told, indent=1) + "\n")
        (ROOT / "docs" / "benchmarks.md").write_text(page(found, rows, machine))
    sys.exit(not all(row["met"] for row in rows))


if __name__ == "__main__":
    main()

"""The caches that are compared: ours and those of the peers, and the row that all of them cache."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from cacheproject.services import Services

__all__ = ["OURS", "OURS_ONE", "PEERS", "ROW", "caches_of", "install_peers", "memcacheds"]

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".cache" / "peers"
OURS, OURS_ONE = "ringcache x3", "ringcache, one node"
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

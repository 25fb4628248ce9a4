"""A server of a cluster names the others by any text and number, and only our own errors come out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis.exceptions

from cachebackend import RingCache
from cachebackend.cluster import Cluster
from cachebackend.errors import RingCacheError
from tests.integration.fake_node import NIL, FakeNode, bulk

#: Hosts that are none, or would be another part of a URL.
HOSTS = [
    *[b"a\0b", b"\xff\xfe", b"x" * 300, b"..", b"[::1", b"]", b"::zz", b"a:b", b"127.0.0.1:1"],
    *[b"a/b", b"u:p@h", b"x/0?ssl_cert_reqs=none&y="],
]
PORTS = [-1, 0, 65_536, 2**63 - 1]
KEYS = [f"k{number}" for number in range(6)]
#: How the address is named: by the table of slots, or by the reply to a command.
WAYS = ["primary", "replica", "without slots", "MOVED", "ASK"]


class NamingNode(FakeNode):
    """A server of a cluster that names another one."""

    def __init__(self) -> None:
        super().__init__()
        self.port = int(self.url.split(":")[2].partition("/")[0])
        self.answer = self._answer
        self.name("primary", b"127.0.0.1", self.port)

    def name(self, way: str, host: bytes, port: int) -> None:
        """Name another server from now on."""
        own, other = (
            b"*3\r\n%b:%d\r\n%b" % (bulk(each), at, bulk(each))
            for each, at in ((b"127.0.0.1", self.port), (host, port))
        )
        self._slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n" + own
        if way == "primary":
            self._slots = b"*2\r\n*3\r\n:0\r\n:8000\r\n%b*3\r\n:8001\r\n:16383\r\n%b" % (own, other)
        if way == "replica":
            self._slots = b"*1\r\n*4\r\n:0\r\n:16383\r\n%b%b" % (own, other)
        server = [bulk(each) for each in (b"endpoint", host, b"role", b"master", b"port")]
        shard = [bulk(b"slots"), b"*0\r\n", bulk(b"nodes"), b"*1\r\n*6\r\n", *server, b":%d\r\n" % port]
        self._shards = b"*1\r\n*4\r\n" + b"".join(shard) if way == "without slots" else b"*0\r\n"
        self._redirection = b""
        if way in {"MOVED", "ASK"}:
            self._redirection = b"-%b 5 %b:%d\r\n" % (way.encode(), host, port)

    def _answer(self, command: list[bytes]) -> bytes:
        known = {
            (b"CLUSTER", b"INFO"): bulk(b"cluster_state:ok\r\ncluster_current_epoch:5\r\n"),
            (b"CLUSTER", b"SLOTS"): self._slots,
            (b"CLUSTER", b"SHARDS"): self._shards,
        }
        if (found := known.get(tuple(command[:2]))) is not None:
            return found
        return self._redirection or {b"SCAN": b"*2\r\n$1\r\n0\r\n*0\r\n", b"EVALSHA": b":1\r\n"}.get(
            command[0], NIL
        )


CALLS: dict[str, Callable[[RingCache], object]] = {
    "get_many": lambda cache: cache.get_many(KEYS),
    "set": lambda cache: [cache.set(key, 1) for key in KEYS],
    "delete": lambda cache: cache.delete_many(KEYS),
    "aget_many": lambda cache: asyncio.run(cache.aget_many(KEYS)),
    "keys": lambda cache: cache.keys("*"),
    "aclear": lambda cache: asyncio.run(cache.aclear()),
    "lock": lambda cache: [cache.lock(key).acquire(blocking=False) for key in KEYS],
    "replicas": lambda cache: [node.call((b"PING",)) for node in cluster_of(cache).replica_nodes()],
}


def cluster_of(cache: RingCache) -> Cluster:
    return cache.client.clusters[0]


@pytest.fixture
def naming() -> Iterator[NamingNode]:
    node = NamingNode()
    yield node
    node.close()


@pytest.fixture
def open_cache(naming: NamingNode, open_alias: Callable[..., RingCache]) -> Callable[[], RingCache]:
    """Makes an alias whose cluster has the naming server."""
    return partial(open_alias, f"redis+cluster://127.0.0.1:{naming.port}", connect_timeout=0.2)


@pytest.mark.parametrize("way", WAYS)
def test_an_address_that_cannot_be_one_is_a_failure_of_its_server(
    naming: NamingNode, open_cache: Callable[[], RingCache], way: str
) -> None:
    """The call ends like one for a server that does not answer."""
    for address in [*((host, naming.port) for host in HOSTS), *((b"127.0.0.1", port) for port in PORTS)]:
        naming.name(way, *address)
        for call in CALLS.values():
            with contextlib.suppress(RingCacheError, ConnectionError, redis.exceptions.RedisError):
                call(open_cache())


def test_a_table_with_such_an_address_is_replaced_by_the_next_one(
    naming: NamingNode, open_cache: Callable[[], RingCache]
) -> None:
    """Also if its server is asked for the table."""
    cluster = cluster_of(open_cache())
    for host in HOSTS:
        naming.name("primary", host, 65_536)
        cluster.reload()
        assert len(cluster.ring.nodes) == 2, host
        naming.name("primary", b"127.0.0.1", naming.port)
        cluster.reload()
        assert len(cluster.ring.nodes) == 1, host

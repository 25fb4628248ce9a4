"""The topology of a cluster, as one of its servers reports it: the shards, and the slots of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.options import AddressMap, host_text
from cachebackend.replies import pairs
from cachebackend.ring import CLUSTER_SLOTS

__all__ = [
    "MAX_SHARDS",
    "QUESTIONS",
    "SHARDS",
    "UNNAMED",
    "Server",
    "Shard",
    "Topology",
    "empty_primaries",
    "read_topology",
]

#: The commands whose replies ``read_topology`` reads.
QUESTIONS: tuple[Command, Command] = ((b"CLUSTER", b"INFO"), (b"CLUSTER", b"SLOTS"))
#: The command whose reply ``empty_primaries`` reads.
SHARDS: Command = (b"CLUSTER", b"SHARDS")
#: The host of a server that has no hostname, if the cluster prefers hostnames.
UNNAMED = "?"
#: The most primaries that own slots, or that do not: each is a node, and a probe of it is a thread.
#: Source: https://valkey.io/blog/1-billion-rps/: a cluster has up to 2,000 servers.
MAX_SHARDS = 2000
_NO_CLUSTER = "cluster support disabled"


class Server(NamedTuple):
    """One server of a cluster.

    Attributes:
        id: Its ID, which stays the same when its address changes; empty: it is not known yet.
        host: Its host, as this process reaches it.
        port: Its port.
    """

    id: str
    host: str
    port: int

    @property
    def name(self) -> str:
        """Host and port."""
        return host_text(self.host, self.port)


class Shard(NamedTuple):
    """A primary with its replicas.

    Attributes:
        primary: The primary.
        replicas: Its replicas that the cluster believes to work.
        slots: First and last slot of each range that it owns.
    """

    primary: Server
    replicas: tuple[Server, ...]
    slots: tuple[tuple[int, int], ...]


class Topology(NamedTuple):
    """The topology, as one server sees it.

    Attributes:
        epoch: The cluster's epoch. It grows with each failover and each slot that moves; a server that
            is cut off from the others has an older one.
        is_ok: Whether the server believes that the cluster works.
        shards: The shards that own slots.
    """

    epoch: int
    is_ok: bool
    shards: tuple[Shard, ...]

    @property
    def unserved(self) -> frozenset[int]:
        """The slots that no server has."""
        is_served = bytearray(CLUSTER_SLOTS)
        for shard in self.shards:
            for first, last in shard.slots:
                is_served[first : last + 1] = b"\1" * (last + 1 - first)
        if 0 not in is_served:  # mostly
            return frozenset()
        return frozenset(slot for slot, served in enumerate(is_served) if not served)


def read_topology(replies: list[Reply], host: str, address_map: AddressMap) -> Topology:
    """Return the topology that a server reports.

    Args:
        replies: The replies to ``QUESTIONS``.
        host: The host of the server. It stands for a host that the server does not know itself.
        address_map: Translates each address.

    Raises:
        RingCacheError: The server is not in cluster mode, reported an error, or more primaries than any
            cluster has.
    """
    for reply in replies:
        if isinstance(reply, RingCacheError):
            if isinstance(reply, NodeReplyError) and _NO_CLUSTER in str(reply):
                message = "is not in cluster mode; write redis:// instead of redis+cluster://"
                raise NodeUnavailableError(message) from reply
            raise reply
    info, ranges = replies
    state = dict(line.partition(":")[::2] for line in info.decode(errors="replace").split())
    _check_ranges(ranges)
    shards: dict[str, Shard] = {}
    for first, last, primary, *replicas in ranges:
        server = _server(primary, host, address_map)
        known = shards.get(server.id)
        slots = (*(known.slots if known else ()), (first, last))
        shards[server.id] = Shard(server, tuple(_server(each, host, address_map) for each in replicas), slots)
        _check_count(len(shards))
    return Topology(
        _number(state.get("cluster_current_epoch", "")),
        state.get("cluster_state") == "ok",
        tuple(shards.values()),
    )


def empty_primaries(
    reply: Reply, host: str, address_map: AddressMap, *, is_tls: bool
) -> list[tuple[str, int]]:
    """Return where this process reaches the primaries that have no slots, from the reply to ``SHARDS``.

    The table of slots does not name them, and keys of their first slots may have moved to them already.

    Args:
        reply: The reply.
        host: The host of the server that has sent it.
        address_map: Translates each address.
        is_tls: Whether connections use TLS.

    Raises:
        NodeUnavailableError: They are more than any cluster has.
    """
    found: list[tuple[str, int]] = []
    names = (b"tls-port", b"port") if is_tls else (b"port",)
    for shard in reply:
        fields = dict(zip(shard[::2], shard[1::2], strict=True))
        for flat in () if fields[b"slots"] else fields[b"nodes"]:
            server = dict(zip(flat[::2], flat[1::2], strict=True))
            # A server behind a proxy that terminates TLS has no port of its own for it
            port = next((server[name] for name in names if server.get(name)), None)
            if server.get(b"role") != b"master" or server.get(b"health") == b"fail":
                continue
            named = server.get(b"endpoint")
            named = server.get(b"ip") if named == UNNAMED.encode() else named
            text = named.decode(errors="replace") if isinstance(named, bytes) else ""
            if isinstance(port, int) and port:
                found.append(address_map(text or host, port))
                _check_count(len(found))
    return found


def _server(entry: list[Any], host: str, address_map: AddressMap) -> Server:
    reported = entry[0] or b""
    if reported == UNNAMED.encode():
        fields = iter(entry[3] if len(entry) > 3 and pairs(entry[3], ()) else ())
        reported = dict(zip(fields, fields, strict=False)).get(b"ip", b"")
    address = address_map(reported.decode(errors="replace") or host, entry[1])
    return Server(entry[2].decode(errors="replace"), *address)


def _check_ranges(ranges: list[Any]) -> None:
    """Check that ranges of slots, each with its servers, are not more than any cluster has."""
    if sum(1 + last - first for first, last, *_ in ranges) > CLUSTER_SLOTS:
        message = "names two owners of one slot"
        raise NodeUnavailableError(message)
    if (servers := max((len(servers) for _, _, *servers in ranges), default=0)) > MAX_SHARDS:
        message = f"names a shard of {servers:,} servers"
        raise NodeUnavailableError(message)


def _check_count(primaries: int) -> None:
    if primaries > MAX_SHARDS:
        message = f"names more than {MAX_SHARDS:,} primaries"
        raise NodeUnavailableError(message)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise_interrupt(error)
        return 0

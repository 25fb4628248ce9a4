"""The servers of a cluster that have no slots, and may have keys of slots that move to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import SHARDS, empty_primaries
from cachebackend.drivers import drive
from cachebackend.effects import Operation, Reply, Send
from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.options import AddressMap

__all__ = ["empty_servers"]


def empty_servers(
    shards: Sequence[ShardNode],
    address_map: AddressMap,
    on_error: Callable[[RingCacheError], None],
    *,
    is_tls: bool,
) -> list[tuple[str, int]]:
    """Return where this process reaches the servers without slots, which the table of slots does not name.

    All primaries are asked, at the same time: that of the slot that moves knows the server.

    Args:
        shards: The shards that have slots.
        address_map: Translates each address.
        on_error: Called with the error of a server that refuses the command, or names too many servers.
        is_tls: Whether connections use TLS.
    """
    found: dict[tuple[str, int], None] = {}
    for shard, reply in zip(shards, drive(_ask(len(shards)), shards), strict=True):
        try:
            if isinstance(reply, NodeReplyError):
                raise reply
            if isinstance(reply, list) and shard.server is not None:
                addresses = empty_primaries(reply, shard.server.host, address_map, is_tls=is_tls)
                found.update(dict.fromkeys(addresses))
        except RingCacheError as error:
            raise_interrupt(error)
            on_error(error)
    return list(found)


def _ask(shards: int) -> Operation[list[Reply]]:
    replies: list[Reply] = yield Send([(shard, SHARDS) for shard in range(shards)])
    return replies

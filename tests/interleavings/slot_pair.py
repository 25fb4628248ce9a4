"""Stands for two servers of a cluster between which one slot moves, built on two databases of one real node.

Each server has its own view of the slot's owner, and decides by the rules of a cluster whether it executes
or redirects a command. ``tests/integration/test_moving_slot.py`` compares its replies with a cluster's.

Source: https://valkey.io/topics/cluster-spec/, "Redirection and resharding".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

from cachebackend.cluster.topology import Server, Shard, Topology
from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import MovingSlotError, NodeReplyError, RedirectedError
from cachebackend.node import Node
from cachebackend.ring import CLUSTER_SLOTS, cluster_slot

__all__ = ["SERVERS", "SlotPair"]

SERVERS = (Server("a", "a.test", 7000), Server("b", "b.test", 7001))
_INFO: Command = (b"CLUSTER", b"INFO")
_OTHER_SLOT = 0


class SlotPair:
    """Two servers, of which the first one owns all slots at first, or all but one.

    Args:
        nodes: Where each server stores its keys.
        slot: The slot that moves.
        is_new: Whether the second server owns nothing at first.

    Attributes:
        owners: By server, the owner of the slot in its view.
        epochs: By server, the epoch of its view.
        importing: The servers that accept ASKING for the slot.
        migrating: The servers that answer ASK for keys of the slot that they do not have.
    """

    def __init__(self, nodes: Sequence[Node], slot: int, *, is_new: bool = False) -> None:
        self._nodes, self.slot, self._is_new = nodes, slot, is_new
        self.owners, self.epochs = [0, 0], [1, 1]
        self.importing: set[int] = set()
        self.migrating: set[int] = set()

    # The steps of a move

    def begin_import(self, target: int) -> None:
        """Let the new owner accept ASKING."""
        self.importing.add(target)

    def begin_migration(self, source: int) -> None:
        """Let the old owner answer ASK for keys that it does not have."""
        self.migrating.add(source)

    def move_key(self, source: int, key: bytes) -> None:
        """Move a key to the other server in one step, with its TTL."""
        self._nodes[source].call((b"MOVE", key, b"%d" % (1 - source)))

    def give(self, server: int, owner: int) -> None:
        """Let one server know the new owner of the slot; the new owner comes first, and begins an epoch."""
        self.owners[server] = owner
        self.epochs[server] = max(self.epochs) + (server == owner)
        self.importing.discard(server)
        self.migrating.discard(server)

    # The replies

    def topology(self, server: int) -> Topology:
        """Return the topology as one server has it."""
        second = {self.slot} if self.owners[server] else set()
        return _topology(frozenset(second if self._is_new else second | {_OTHER_SLOT}), self.epochs[server])

    def _owner(self, slot: int) -> int:
        """Return the owner of a slot that does not move; no test has a key in the second server's slot."""
        return int(slot == _OTHER_SLOT and not self._is_new)

    def exchange(self, server: int, commands: Sequence[Command]) -> Iterator[Reply]:
        """Yield the replies of a server to commands that arrive together over one connection."""
        is_asking = False
        for command in commands:
            if command[0] == b"ASKING":
                yield b"OK"
            elif command == _INFO:
                yield b"cluster_state:ok\r\n"
            else:
                yield self._reply(server, command, is_asking=is_asking)
            is_asking = command[0] == b"ASKING"

    def _reply(self, server: int, command: Command, *, is_asking: bool) -> Reply:
        keys = _keys_of(command)
        slots = {cluster_slot(key) for key in keys}
        if len(slots) > 1:
            return NodeReplyError("CROSSSLOT Keys in request don't hash to the same slot")
        owner = self.owners[server] if self.slot in slots else self._owner(*slots) if slots else server
        missing = len(keys) - sum(self._nodes[server].call((b"EXISTS", key)) for key in keys)
        if self.slot in slots:
            if server in self.migrating and missing:
                return self._redirected("ASK", 1 - server) if missing == len(keys) else _TRY_AGAIN
            if server in self.importing and is_asking:
                if missing and len(set(keys)) > 1:
                    return _TRY_AGAIN
                owner = server
        if owner != server:
            return self._redirected("MOVED", owner, *slots)
        return self._nodes[server].call(command.with_source if isinstance(command, ScriptCall) else command)

    def _redirected(self, code: str, target: int, slot: int | None = None) -> RedirectedError:
        number = self.slot if slot is None else slot
        return RedirectedError.read(f"{code} {number} {SERVERS[target].host}:{SERVERS[target].port}")


_TRY_AGAIN = MovingSlotError()


@cache
def _topology(second: frozenset[int], epoch: int) -> Topology:
    """Return the topology in which the second server owns some slots and the first one all others."""
    ends = [-1, *sorted(second), CLUSTER_SLOTS]
    first = tuple((low + 1, high - 1) for low, high in pairwise(ends) if low + 1 < high)
    slots = first, tuple((slot, slot) for slot in sorted(second))
    shards = tuple(Shard(each, (), of) for each, of in zip(SERVERS, slots, strict=True) if of)
    return Topology(epoch, True, shards)


def _keys_of(command: Command) -> list[bytes]:
    """Return the keys of a command: those of a script, all of MGET, DEL and EXISTS, or the first argument."""
    if isinstance(command, ScriptCall):
        keys = command.keys
    elif command[0] in {b"MGET", b"DEL", b"EXISTS"}:
        keys = command[1:]
    else:
        keys = command[1:2]
    return [key for key in keys if isinstance(key, bytes)]

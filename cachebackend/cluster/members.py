"""The shards of a cluster by their index among the nodes of a client, and the shard of each server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import MAX_SHARDS, Server, Shard
from cachebackend.node import Node

__all__ = ["Members"]

#: The most nodes of one cluster: shards that own slots, others that have owned them, servers without slots.
MAX_MEMBERS = 3 * MAX_SHARDS


class Members:
    """The shards of one cluster.

    Args:
        nodes: The nodes of the client, to which the shards are added.
        new_node: Returns a new shard.
        prepare: Prepares a new shard, with its index, before it is used.

    Attributes:
        nodes: The nodes of the client.
        shards: The shards by their index in ``nodes``. Indexes stay valid, so one that has lost its slots
            stays, until a new shard takes its place. A new dict replaces it when a shard is added, because
            other threads may iterate over it.
    """

    def __init__(
        self,
        nodes: list[Node],
        new_node: Callable[[], ShardNode],
        prepare: Callable[[int, ShardNode], None],
    ) -> None:
        self.nodes = nodes
        self.shards: Mapping[int, ShardNode] = {}
        self._new_node, self._prepare = new_node, prepare
        #: The index of the shard of each server that was seen, by the server's ID.
        self._shard_of: dict[str, int] = {}
        #: The indexes of the shards that the last topology has.
        self._present: frozenset[int] = frozenset()

    def add(self) -> int:
        """Add a shard without a primary; return its index."""
        node = self._new_node()
        self.nodes.append(node)
        index = self.nodes.index(node)  # another cluster of the client may have added one meanwhile
        self._prepare(index, node)
        self.shards = {**self.shards, index: node}
        return index

    def follow(self, shards: Sequence[Shard], owners: Sequence[int]) -> list[tuple[int, Shard]]:
        """Give each shard of a new topology its node; return each with the index of its node.

        Args:
            shards: The shards of the topology.
            owners: The indexes of the nodes that own slots until now.
        """
        indexed = self._indexed(shards, owners)
        for index in self.shards.keys() - {index for index, _ in indexed}:
            self.shards[index].replicas = ()  # no topology names them; each may be a primary of its own now
        if len(self._shard_of) > MAX_MEMBERS:
            self._shard_of.clear()  # nearly all of them have gone
        for index, shard in indexed:
            self.shards[index].become(shard)
            for server in (shard.primary, *shard.replicas):
                self._shard_of[server.id] = index
        self._present = frozenset(index for index, _ in indexed)
        return indexed

    def free_index(self, owners: Sequence[int], taken: Collection[int] = ()) -> int:
        """Return the index of a node that has no server yet, or no slots any more; add one if there is none.

        A server that owns no slots yet, and is asked for keys that move to it, serves already. The node of
        another server is ejected when it follows the new one, until that has got what was missed. Of too
        many nodes, one of a server without slots is free.

        Args:
            owners: The indexes of the nodes that own slots.
            taken: Further indexes that are not free.
        """
        is_full = len(self.shards) >= MAX_MEMBERS
        for index, node in self.shards.items():
            is_former = node.server is None or ((node.server.id or is_full) and index not in owners)
            if is_former and index not in taken:
                return index
        return self.add()

    def index_at(self, address: tuple[str, int]) -> int | None:
        """Return the index of the shard whose primary has an address; None: there is none.

        A server that was reset and joined again has another ID at the same address. Its former shard, which
        has no slots any more, must not be asked instead: the present one may have to get deletes first.
        """
        found = None
        for index, node in self.shards.items():
            if node.server is not None and (node.server.host, node.server.port) == address:
                if index in self._present:
                    return index
                found = index if found is None else found
        return found

    def only_other_at(self, port: int, asked: tuple[str, int]) -> tuple[str, int] | None:
        """Return the address of the only primary with a port beside the one that was asked; None: not one."""
        servers = [node.server for node in self.shards.values() if node.server is not None]
        found = {(server.host, server.port) for server in servers if server.port == port} - {asked}
        return found.pop() if len(found) == 1 else None

    def is_replica(self, address: tuple[str, int]) -> bool:
        """Return whether a replica of a shard has an address."""
        return any(
            (replica.host, replica.port) == address
            for shard in self.shards.values()
            for replica in shard.replicas
        )

    def _indexed(self, shards: Sequence[Shard], owners: Sequence[int]) -> list[tuple[int, Shard]]:
        """Return each shard with its index: that of a node with the same servers, or a new one."""
        found = [(self._index_of(shard.primary), shard) for shard in shards]
        taken = {index for index, _ in found if index is not None}
        indexed: list[tuple[int, Shard]] = []
        for known, shard in found:
            index = self._shard_of.get(shard.primary.id) if known is None else known
            if known is None and (index is None or index in taken):
                index = self.free_index(owners, taken)
            assert index is not None  # noqa: S101  # one of the lines above has set it
            taken.add(index)
            indexed.append((index, shard))
        return indexed

    def _index_of(self, primary: Server) -> int | None:
        """Return the index of the shard with this primary, whose ID may not have been known until now."""
        for index, node in self.shards.items():
            server = node.server
            if server is not None and (server.id == primary.id or server == primary._replace(id="")):
                return index
        return None

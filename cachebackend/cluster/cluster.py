"""A cluster: the table of its slots, its shards, and where a redirected command goes.

The table is read from any server (``CLUSTER SLOTS``); ``reloads`` says when. A command does not wait for
that: it follows a redirection at once.
"""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cachebackend.clock import Clock, LogRateLimit
from cachebackend.cluster.empty_servers import empty_servers
from cachebackend.cluster.keys import key_of
from cachebackend.cluster.members import Members
from cachebackend.cluster.reader import NoSlotsError, TopologyReader
from cachebackend.cluster.redirections import follow, follow_async
from cachebackend.cluster.reloads import Reloads
from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import UNNAMED, Server, Shard, Topology
from cachebackend.effects import Command, Reply
from cachebackend.errors import RedirectedError, RingCacheError, UnservedSlotError
from cachebackend.imports import import_at_first_use
from cachebackend.interrupts import raise_interrupt
from cachebackend.node import Node
from cachebackend.node.endpoint import Address
from cachebackend.node.handshake import Handshake
from cachebackend.options import AddressMap, ClusterAddress, NodeAddress, Password
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing, cluster_slot

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient

__all__ = ["Cluster", "Rehome"]

logger = logging.getLogger("cachebackend")
#: Stands for the owner of a slot that no server has.
_NOBODY = 0xFFFF
#: Stands for the shards of any cluster in the outbox. The addresses in the URL may change while deletes are
#: pending, and an alias has one cluster, or two while its ring changes: both get the deletes then.
ENDPOINT = "cluster"
#: Gives what old owners of slots have missed to the new owners, and returns these. Its arguments are a
#: function that returns the new owner of a key, and the old and new owners.
Rehome: TypeAlias = Callable[[Callable[[bytes], int], Collection[tuple[int, int]]], set[int]]


class Cluster(Reloads):
    """One cluster, as one client sees it.

    Args:
        address: The settings' URL.
        timeouts: The most seconds that connecting to a server may take, and those for a reply.
        clock: The source of time.
        password: The password, or a function that returns it, if the URL has none.
        address_map: Translates the addresses that the cluster reports to those that this process uses.
        nodes: The nodes of the client, to which the shards are added; None: it has no others.

    Attributes:
        ring: The owner of each slot.
        nodes: The nodes of the client.
        on_node: Called with index and shard, for each shard, before it is used.
        rehome: Called before slots get other owners; None: nothing depends on the owners.
        on_change: Called when slots have got other owners.
        on_asked: Called with keys before a server is asked for them that does not own their slot yet.
    """

    def __init__(
        self,
        address: ClusterAddress,
        timeouts: tuple[float, float],
        clock: Clock,
        *,
        password: Password | None = None,
        address_map: AddressMap | None = None,
        nodes: list[Node] | None = None,
    ) -> None:
        super().__init__(clock)
        self._address, self._password = address, password
        self._timeouts = timeouts
        self._address_map = address_map or (lambda host, port: (host, port))
        self._reader = TopologyReader(address, timeouts, password, self._address_map)
        self._members = Members([] if nodes is None else nodes, self._new_node, self._prepare)
        self.nodes = self._members.nodes
        self.ring = ClusterRing(len(self.nodes))
        self.ring.refresh = self._refresh
        self.on_node: Callable[[int, ShardNode], None] = lambda index, node: None
        self.rehome: Rehome | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.on_asked: Callable[[Iterable[bytes]], None] = lambda keys: None
        #: The owner of each slot, or ``_NOBODY``, when the topology was last read; redirections may have
        #: changed some since.
        self._last_read: Sequence[int] = self.ring.owners
        #: The nodes in ``_last_read``: each redirection looks for one.
        self._last_owners = frozenset(self._last_read)
        #: Held while the table is changed.
        self._table_lock = threading.Lock()
        self._empty_log = LogRateLimit(clock)
        self._members.add()

    def _new_node(self) -> ShardNode:
        address = NodeAddress(self._address.endpoint, 1.0, self._address.login_url, self._password)
        node = ShardNode(self, address, *self._timeouts, self._clock)
        node.endpoint = ENDPOINT
        return node

    def _prepare(self, index: int, node: ShardNode) -> None:
        self.on_node(index, node)

    @property
    def shards(self) -> Mapping[int, ShardNode]:
        """The shards by their index in ``nodes``, at present.

        Indexes stay valid, so one that has lost its slots stays, until a new shard takes its place.
        """
        return self._members.shards

    def _refresh(self) -> None:
        """Read the topology, and wait for the replays to shards that this has ejected."""
        if not self.is_loaded:
            self.try_load()
            if self.is_loaded:
                self.find_empty()
            return
        before = self._ejected()
        self.try_reload()
        held = self._ejected()
        self.find_empty()  # it may eject others, because they do not answer: these are not waited for again
        for index in (held.union(self.ring.empty) & set(self.ring.holders)) - before:
            self.shards[index].probe_now()

    def find_empty(self) -> None:
        """Find the servers that have no slots, and may have keys of slots that move to them."""
        shards = [self.shards[index] for index in self.ring.nodes]
        is_tls = self._address.is_tls
        addresses = empty_servers(shards, self._address_map, self._log_not_found, is_tls=is_tls)
        with self._table_lock:
            known = {each for each in map(self._members.index_at, addresses) if each is not None}
            indexes = [self._index_at(each, known) for each in addresses]
            # A server that was reset says of itself that it has no slots; a replica may be promoted for it
            self.ring.empty = tuple(each for each in indexes if self.ring.served_slot(each) is None)

    def _log_not_found(self, error: RingCacheError) -> None:
        if self._empty_log.to_log():
            logger.warning("servers without slots are not found: CLUSTER SHARDS: %s", error)

    def _index_at(self, address: tuple[str, int], taken: Collection[int]) -> int:
        """Return the index of the shard whose primary has an address; add one for a server without slots.

        ``taken``: the indexes of further servers that have no slots.
        """
        index = self._members.index_at(address)
        if index is None:
            index = self._members.free_index(self.ring.nodes, taken)
            self.shards[index].become(Shard(Server("", *address), (), ()))
            self.ring.names = tuple(node.name for node in self.nodes)
        return index

    def _reload(self) -> None:
        try:
            topology = self._read()
        except NoSlotsError as error:
            raise_interrupt(error)
            if self.is_loaded:
                self._lose_slots()
            raise
        self._apply(topology)

    def _lose_slots(self) -> None:
        """Handle a cluster that was reset: no server has a slot. Commands still go to the last owners."""
        with self._table_lock:
            owners, unserved = self.ring.owners, frozenset(range(CLUSTER_SLOTS))
            self._last_read = _served(owners, unserved)
            self._last_owners = frozenset(self._last_read)
            self.ring.replace(owners, self.ring.names, unserved)

    def _read(self) -> Topology:
        """Return the topology, of the servers that probably answer before the others.

        A server that has lost its slots may not be a server of the cluster any more.
        """
        owners, ejected, first, last = self.ring.nodes, self._ejected(), list[Server](), list[Server]()
        for index, node in self.shards.items():
            if node.server is not None:
                (last if index in ejected or index not in owners else first).append(node.server)
        replicas = [server for index in owners for server in self.shards[index].replicas]
        known = {server.id for server in replicas}
        known |= {server.id for index in owners if (server := self.shards[index].server) is not None}
        return self._reader.read([*first, *replicas], last, self._epoch or 0, known - {""})

    def _apply(self, topology: Topology) -> None:
        """Use a topology: the deletes that slots' old owners have missed go with the slots.

        1. process   misses the delete of a key at A, whose slot moves to B
        2. process   records it for B, and ejects B
        3. process   uses the new table: a reader of the key finds B ejected
        4. probe     replays the delete to B, which serves reads from now on

        A node that has none of the slots that it had is ejected too: it may be a replica that was promoted,
        and that this process did not know as one. If it had no slots when it was asked or found, it gets
        them from other nodes; but if one of these has none left, it may have become a replica of that one.
        """
        with self._table_lock:
            owners, moves = self.ring.owners, set[tuple[int, int]]()
            asked = {index for index, node in self.shards.items() if not node.is_identified}
            for index, shard in self._members.follow(topology.shards, self.ring.nodes):
                for first, last in shard.slots:
                    former, owned = owners[first : last + 1], array("H", [index]) * (last + 1 - first)
                    if former != owned:
                        moves.update((old, index) for old in set(former) - {index})
                        owners[first : last + 1] = owned
            self._rehome(lambda key: owners[cluster_slot(key)], moves)
            unserved = topology.unserved
            served = _served(owners, unserved)
            if self.is_loaded:  # else this process has missed nothing, and neither has it served anything
                kept, left = self._kept(served), set(served)
                self._hold(
                    {new for old, new in moves if new not in kept and (new not in asked or old not in left)}
                )
            self._last_read, self._last_owners = served, frozenset(served)
            self._epoch = topology.epoch
            self.ring.replace(owners, [node.name for node in self.nodes], unserved)
        if moves:
            self.on_change()

    def _kept(self, owners: Sequence[int]) -> set[int]:
        """Return the nodes that have slots which they had when the topology was read the last time."""
        if self._last_read == owners:  # mostly; pairs of all slots take a millisecond
            return set(owners)
        return {new for old, new in set(zip(self._last_read, owners, strict=True)) if old == new}

    def _rehome(self, owner: Callable[[bytes], int], moves: Collection[tuple[int, int]]) -> None:
        """Give the new owners of slots the deletes that the old ones have missed.

        An ejected node has also missed what other processes have stored for it, and has not got it yet:

            1. process A  misses the delete of a key at node 1, and stores it in the outbox
            2. process B  has ejected node 1: its probe would replay the delete
            3. cluster    moves the slot, with the old value, from node 1 to node 2
            4. process B  uses the new table; node 2 must not be read before it has got the delete
        """
        if moves and self.rehome is not None:
            ejected = self._ejected()
            self._hold(self.rehome(owner, moves) | {new for old, new in moves if old in ejected})

    def _ejected(self) -> set[int]:
        """Return the indexes of the shards that get no commands now."""
        return {index for index, node in self.shards.items() if node.gets_no_reads}

    def _hold(self, indexes: Iterable[int]) -> None:
        """Eject nodes until they have the deletes that the slots' old owners missed."""
        for index in indexes:
            self.shards[index].hold("slots have moved to it; the deletes that they missed come first")

    def replica_nodes(self) -> list[Node]:
        """Return a node for each replica, to read and set its settings; close it after that."""
        self.try_load()
        replicas = [server for index in self.ring.nodes for server in self.shards[index].replicas]
        return [self._node_at(server) for server in replicas]

    def _node_at(self, server: Server) -> Node:
        address = NodeAddress(server.name, 1.0, self._address.login_url, self._password)
        return Node(address, *self._timeouts, self._clock, Address(server.host, server.port))

    def redis(self, key: bytes) -> RedisClient:
        """Return a redis-py client of the server that has a key; it follows redirections.

        Raises:
            OSError: No server answers.
        """
        clients = import_at_first_use("cachebackend.node.slot_client")  # it imports redis-py
        client: RedisClient = clients.SlotClient(self, cluster_slot(key), self._client_at)
        return client

    def _client_at(self, host: str, port: int) -> RedisClient:
        address = Address(host, port)
        return Handshake(self._address.login_url, *self._timeouts, self._password, address).client()

    def primary_of(self, slot: int) -> tuple[str, int]:
        """Return host and port of the server that has a slot; read the topology if it was not read yet.

        Raises:
            OSError: No server answers.
        """
        self.load()
        server = self.shards[self.ring.owner_of_slot(slot)].server
        assert server is not None  # noqa: S101  # each shard of a topology has a primary
        return server.host, server.port

    def follow(
        self,
        asked: ShardNode,
        commands: Sequence[Command],
        replies: list[Reply],
        servers: list[ShardNode] | None = None,
    ) -> list[Reply]:
        """Return the replies to commands, with those that were redirected sent where they belong.

        ``servers``, an empty list, gets the shard which each reply comes from.
        """
        return self._checked(follow(self, asked, commands, replies, servers))

    async def follow_async(
        self, asked: ShardNode, commands: Sequence[Command], replies: list[Reply]
    ) -> list[Reply]:
        """Return what ``follow`` returns, in the running event loop."""
        return self._checked(await follow_async(self, asked, commands, replies))

    def _checked(self, replies: list[Reply]) -> list[Reply]:
        """Return replies; read the topology again, at most once a second, if a slot is unserved.

        A server that has left the cluster says so of all slots, and redirects no command.
        """
        if UnservedSlotError in map(type, replies):
            self.note_unserved()
        return replies

    def target(self, asked: ShardNode, redirection: RedirectedError) -> int | None:
        """Return the index of the shard whose primary a redirection names; None: it is not known."""
        if redirection.host == UNNAMED and redirection.is_moved:
            owner = self.ring.owner_of_slot(redirection.slot)
            return None if self.shards[owner] is asked else owner
        address = self.reached_at(_address_of(asked), redirection)
        if address is None:
            return None
        index = self._members.index_at(address)
        if index is None or index in self._last_owners:
            return index
        # It has no slots as far as is known. If it is a replica, or has one now, it may have been promoted:
        # the table is read first
        may_be_promoted = redirection.is_moved or self._members.is_replica(address)
        return None if may_be_promoted else index

    def add_target(self, asked: ShardNode, redirection: RedirectedError) -> int | None:
        """Return the index of a new shard for a server that owns no slot yet.

        None: it is a replica, or its address is not known.
        A replica that was promoted is asked after the topology has it as a primary: until then it has not got
        the deletes that the old primary has missed.
        """
        address = self.reached_at(_address_of(asked), redirection)
        if address is None or self._members.is_replica(address):
            return None
        with self._table_lock:
            index = self.target(asked, redirection)  # another thread may have added it
            if index is None:
                index = self._index_at(address, self.ring.empty)
        return index

    def reached_at(self, asked: tuple[str, int], redirection: RedirectedError) -> tuple[str, int] | None:
        """Return where this process reaches the server that a redirection names; None: it is not known."""
        if redirection.host == UNNAMED:
            return self._members.only_other_at(redirection.port, asked)
        try:
            return self._address_map(redirection.host or asked[0], redirection.port)
        except RingCacheError as error:
            raise_interrupt(error)
            logger.warning("a redirected command cannot be sent on: %s", error)
            return None

    def note_asked(self, commands: Sequence[Command]) -> None:
        """Handle commands that are sent to a server which does not own their slots yet."""
        self.on_asked(map(key_of, commands))

    def note_moved(self, slot: int, index: int) -> None:
        """Use the new owner of a slot; the others are read in the background."""
        if self.ring.owner_of_slot(slot) != index:
            with self._table_lock:
                ring = self.ring
                moves = {(ring.owner_of_slot(slot), index)}
                self._rehome(lambda key: index if cluster_slot(key) == slot else ring.owner(key), moves)
                ring.set_owner(slot, index)
            self.on_change()
            self.reload_soon()

    def after_fork(self) -> None:
        """Use new locks in a forked child: another thread of the parent may have held the old ones."""
        super().after_fork()
        self._table_lock = threading.Lock()


def _served(owners: array[int], unserved: Iterable[int]) -> array[int]:
    """Return the owner of each slot; that of a slot that no server has is nobody."""
    served = owners[:]
    for slot in unserved:
        served[slot] = _NOBODY
    return served


def _address_of(node: ShardNode) -> tuple[str, int]:
    return ("", 0) if node.server is None else (node.server.host, node.server.port)

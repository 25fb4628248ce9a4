"""A cluster: the table of its slots, its shards, and where a redirected command goes.

The table is read from any server (``CLUSTER SLOTS``): at the first command, and again in the background
when a server redirects a command or fails. One thread reads it at a time. A command does not wait for that:
it follows the redirection at once.

A key is at one server at any time. While a slot moves from A to B, a command for a key goes this way:

    1. reader  asks A. If A has the key, A executes the command.
    2. A       if not: ``ASK``. The key is at B, or nowhere, and A creates no key of this slot any more.
    3. reader  sends ``ASKING`` and the command to B, which executes it.
    4. mover   ``MIGRATE``: A is blocked until B has stored the key with its TTL, and removes it.
    5. mover   gives the slot to B. From now on A answers ``MOVED``, and so does B if it was given back to A.

So a lease (``SET … NX GET``) is granted at A before 4, or at B, and never at both. A delete or a fill
(``IFEQ``, a script) finds the lease where it is: before 4 at A; after 4 A answers ``ASK``. Commands of many
keys could find some at A and some at B, so they are sent for each key alone (``keys``).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

from cachebackend.clock import Clock
from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import QUESTIONS, Shard, Topology, read_topology
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeUnavailableError, RedirectedError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node import Node
from cachebackend.node.blocking import Connection
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import CONNECTION_ERRORS
from cachebackend.options import AddressMap, ClusterAddress, NodeAddress, Password
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing, cluster_slot
from cachebackend.threads import call_in_thread, is_thread_refused, start_thread

__all__ = ["Cluster", "Rehome"]

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient

logger = logging.getLogger("cachebackend")
#: The most servers to which one command is redirected.
MAX_REDIRECTIONS = 5
_ASKING: Command = (b"ASKING",)
#: Gives what old owners of slots have missed to the new owners, and returns these. Its arguments are a
#: function that returns the new owner of a key, and the old and new owners.
Rehome: TypeAlias = Callable[[Callable[[bytes], int], Collection[tuple[int, int]]], set[int]]


class Cluster:
    """One cluster, as one client sees it.

    Args:
        address: The settings' URL.
        timeouts: The most seconds that connecting to a server may take, and those for a reply.
        clock: The source of time.
        password: The password, or a function that returns it, if the URL has none.
        address_map: Translates the addresses that the cluster reports to those that this process uses.

    Attributes:
        ring: The owner of each slot.
        nodes: The shards. A shard that has lost its slots stays in the list, so that indexes stay valid.
        on_node: Called with index and shard, for each shard, before it is used.
        rehome: Called before slots get other owners; None: nothing depends on the owners.
    """

    def __init__(
        self,
        address: ClusterAddress,
        timeouts: tuple[float, float],
        clock: Clock,
        password: Password | None = None,
        address_map: AddressMap | None = None,
    ) -> None:
        self._address, self._password = address, password
        self._timeouts = timeouts
        self._clock = clock
        self._address_map = address_map or (lambda host, port: (host, port))
        self.ring = ClusterRing()
        self.nodes: list[ShardNode] = []
        self.on_node: Callable[[int, ShardNode], None] = lambda index, node: None
        self.rehome: Rehome | None = None
        #: The index of the shard of each server that was ever seen, by the server's ID.
        self._shard_of: dict[str, int] = {}
        #: Held while the topology is read.
        self._lock = threading.Lock()
        #: Held while the table is changed.
        self._table_lock = threading.Lock()
        self._attempts = 0
        self._failure = ""
        #: The thread that reads the topology in the background, or has done so.
        self._reloader: threading.Thread | None = None
        self._epoch: int | None = None
        self._add_node()
        _CLUSTERS.add(self)

    def _add_node(self) -> ShardNode:
        address = NodeAddress(
            self._address.endpoint, 1.0, self._address.node_url("cluster", 1), self._password
        )
        node = ShardNode(self, address, *self._timeouts, self._clock)
        node.endpoint = self._address.endpoint
        self.on_node(len(self.nodes), node)
        self.nodes.append(node)
        return node

    def load(self) -> None:
        """Read the topology if it was not read yet.

        Raises:
            OSError: No server answers.
        """
        if not self.is_loaded:
            self.reload()

    def try_load(self) -> None:
        """Read the topology if it was not read yet; if no server answers, log that."""
        if not self.is_loaded:
            self._reload_quietly()

    @property
    def is_loaded(self) -> bool:
        """Whether the topology was read."""
        return self._epoch is not None

    def reload(self) -> None:
        """Read the topology; if another thread is reading it, wait for that thread.

        Raises:
            OSError: No server answers.
        """
        seen = self._attempts
        with self._lock:
            if self._attempts == seen:
                try:
                    self._apply(self._read())
                    self._failure = ""
                except ConnectionError as error:
                    raise_interrupt(error)
                    self._failure = str(error)
                finally:
                    self._attempts += 1
            if self._failure:
                raise ConnectionError(self._failure)

    def reload_soon(self) -> None:
        """Read the topology in another thread, unless one does so already."""
        if self._reloader is None or not self._reloader.is_alive():
            self._reloader = threading.Thread(
                target=self._reload_quietly, name="ringcache-cluster", daemon=True
            )
            try:
                start_thread(self._reloader)
            except RuntimeError as error:
                raise_interrupt(error)
                if not is_thread_refused(error):
                    raise

    def _reload_quietly(self) -> None:
        try:
            self.reload()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            logger.warning("the topology of the cluster cannot be read: %s", error)

    def _read(self) -> Topology:
        """Return the first topology that is not older than the last one, or the best that any server has."""
        found: list[Topology] = []
        failure = ""
        for host, port in self._servers():
            try:
                topology = self._ask(host, port)
            except (*CONNECTION_ERRORS, RingCacheError) as error:
                raise_interrupt(error)
                failure = failure or f": {host}:{port} {error}"
                continue
            if topology.is_ok and topology.epoch >= (self._epoch or 0) and topology.shards:
                return topology
            found.append(topology)
        best = max(found, key=lambda each: (bool(each.shards), each.is_ok, each.epoch), default=None)
        if best is None or not best.shards:
            message = "no server of the cluster answers" if best is None else "the cluster has no slots yet"
            raise ConnectionError(message + failure)
        return best

    def _servers(self) -> Iterator[tuple[str, int]]:
        """Yield the address of each server to ask: first those that probably answer."""
        known = [node for node in self.nodes if node.server is not None]
        is_open = {node: node.breaker is not None and node.breaker.is_open for node in known}
        primaries = [node.server for node in known if node.server is not None and not is_open[node]]
        replicas = [server for node in known for server in node.replicas]
        failed = [node.server for node in known if node.server is not None and is_open[node]]
        addresses = [(server.host, server.port) for server in (*primaries, *replicas)]
        yield from dict.fromkeys(
            (*addresses, *self._seeds(), *[(server.host, server.port) for server in failed])
        )

    def _seeds(self) -> list[tuple[str, int]]:
        return [self._address_map(*host) for host in self._address.hosts]

    def _ask(self, host: str, port: int) -> Topology:
        handshake = Handshake(self._address.node_url(host, port), *self._timeouts, self._password)
        with closing(Connection(handshake, self._timeouts[1])) as connection:
            connection.send(QUESTIONS)
            return read_topology(list(connection.replies(QUESTIONS)), host, self._address_map)

    def _apply(self, topology: Topology) -> None:
        """Use a topology: the deletes that slots' old owners have missed go with the slots.

        1. process   misses the delete of a key at A, whose slot moves to B
        2. process   records it for B, and ejects B
        3. process   uses the new table: a reader of the key finds B ejected
        4. probe     replays the delete to B, which serves reads from now on
        """
        with self._table_lock:
            former = [self.ring.owner_of_slot(slot) for slot in range(CLUSTER_SLOTS)]
            owners = list(former)
            for index, shard in self._indexed(topology.shards):
                self.nodes[index].become(shard)
                for server in (shard.primary, *shard.replicas):
                    self._shard_of[server.id] = index
                for first, last in shard.slots:
                    owners[first : last + 1] = [index] * (last + 1 - first)
            moves = {(old, new) for old, new in zip(former, owners, strict=True) if old != new}
            self._rehome(lambda key: owners[cluster_slot(key)], moves)
            self._epoch = topology.epoch
            self.ring.replace(owners, [node.name for node in self.nodes])

    def _rehome(self, owner: Callable[[bytes], int], moves: Collection[tuple[int, int]]) -> None:
        for index in self.rehome(owner, moves) if moves and self.rehome is not None else ():
            self.nodes[index].hold("slots have moved to it; the deletes that they missed come first")

    def _indexed(self, shards: Sequence[Shard]) -> list[tuple[int, Shard]]:
        """Return each shard with its index: that of a node with the same servers, or a new one."""
        index_of = {node.server.id: index for index, node in enumerate(self.nodes) if node.server is not None}
        found = [(index_of.get(shard.primary.id), shard) for shard in shards]
        taken = {index for index, _ in found if index is not None}
        indexed: list[tuple[int, Shard]] = []
        for known, shard in found:
            index = self._shard_of.get(shard.primary.id) if known is None else known
            if known is None and (index is None or index in taken):
                index = self._free_index(taken)
            assert index is not None  # noqa: S101  # one of the lines above has set it
            taken.add(index)
            indexed.append((index, shard))
        return indexed

    def _free_index(self, taken: set[int]) -> int:
        if self.nodes[0].server is None and 0 not in taken:
            return 0
        self._add_node()
        return len(self.nodes) - 1

    def redis(self) -> RedisClient:
        """Return a redis-py client that follows redirections; it connects at once.

        Raises:
            OSError: No server answers.
        """
        from cachebackend.node.clients import cluster_client_of  # it imports redis-py

        login = self.nodes[0].handshake.login
        url = self._address.node_url("cluster", 1)
        return cluster_client_of(self._seeds(), url, login, self._timeouts, self._address_map)

    def follow(self, asked: ShardNode, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Return the replies to commands, with those that were redirected sent where they belong.

        Args:
            asked: The shard that was asked.
            commands: The commands.
            replies: Its replies.
        """
        for _ in range(MAX_REDIRECTIONS):
            if RedirectedError not in map(type, replies):
                return replies
            if not self._knows_all(asked, replies):
                self._reload_quietly()
            for (node, is_ask), positions in self._targets(asked, replies).items():
                batch = _batch(commands, positions, is_ask=is_ask)
                _put(replies, positions, Node.send(node, batch).receive(), is_ask=is_ask)
        return _given_up(replies)

    async def follow_async(
        self, asked: ShardNode, commands: Sequence[Command], replies: list[Reply]
    ) -> list[Reply]:
        """Return what ``follow`` returns, in the running event loop."""
        for _ in range(MAX_REDIRECTIONS):
            if RedirectedError not in map(type, replies):
                return replies
            if not self._knows_all(asked, replies):
                await call_in_thread(self._reload_quietly)
            for (node, is_ask), positions in self._targets(asked, replies).items():
                batch = _batch(commands, positions, is_ask=is_ask)
                _put(replies, positions, await Node.submit(node, batch), is_ask=is_ask)
        return _given_up(replies)

    def _knows_all(self, asked: ShardNode, replies: Sequence[Reply]) -> bool:
        return all(
            self._target(asked, reply) is not None for reply in replies if isinstance(reply, RedirectedError)
        )

    def _target(self, asked: ShardNode, redirection: RedirectedError) -> int | None:
        """Return the index of the shard whose primary a redirection names; None: it is not known."""
        host = redirection.host or (asked.server.host if asked.server is not None else "")
        address = self._address_map(host, redirection.port)
        for index, node in enumerate(self.nodes):
            if node.server is not None and (node.server.host, node.server.port) == address:
                return index
        return None

    def _targets(self, asked: ShardNode, replies: list[Reply]) -> dict[tuple[ShardNode, bool], list[int]]:
        """Return the positions of redirected commands by shard, and whether the slot is still being moved.

        The reply to a command that cannot be sent anywhere becomes an error.
        """
        groups: dict[tuple[ShardNode, bool], list[int]] = {}
        for position, reply in enumerate(replies):
            if not isinstance(reply, RedirectedError):
                continue
            index = self._target(asked, reply)
            if index is None:
                replies[position] = _failure("redirected a command to a server that its table does not have")
                continue
            if reply.is_moved:
                self._note_moved(reply.slot, index)
            groups.setdefault((self.nodes[index], not reply.is_moved), []).append(position)
        return groups

    def _note_moved(self, slot: int, index: int) -> None:
        """Use the new owner of a slot; the others are read in the background."""
        if self.ring.owner_of_slot(slot) != index:
            with self._table_lock:
                ring = self.ring
                moves = {(ring.owner_of_slot(slot), index)}
                self._rehome(lambda key: index if cluster_slot(key) == slot else ring.owner(key), moves)
                ring.set_owner(slot, index)
            self.reload_soon()

    def after_fork(self) -> None:
        """Use a new lock in a forked child: another thread of the parent may have held the old one."""
        self._lock, self._table_lock = threading.Lock(), threading.Lock()
        self._reloader = None


def _batch(commands: Sequence[Command], positions: Sequence[int], *, is_ask: bool) -> list[Command]:
    """Return the commands at some positions; each comes after ASKING if its slot is being moved."""
    if not is_ask:
        return [commands[position] for position in positions]
    return [each for position in positions for each in (_ASKING, commands[position])]


def _put(replies: list[Reply], positions: Sequence[int], new: Sequence[Reply], *, is_ask: bool) -> None:
    for position, reply in zip(positions, new[1::2] if is_ask else new, strict=True):
        replies[position] = reply


def _given_up(replies: list[Reply]) -> list[Reply]:
    """Replace redirections by an error: servers that disagree have redirected a command too often."""
    failure = _failure(f"redirected a command {MAX_REDIRECTIONS} times")
    return [failure if isinstance(reply, RedirectedError) else reply for reply in replies]


def _failure(text: str) -> NodeUnavailableError:
    error = NodeUnavailableError(f"the cluster {text}")
    error.ejects = False
    return error


_CLUSTERS: WeakSet[Cluster] = WeakSet()


def _after_fork() -> None:
    for cluster in _CLUSTERS:
        cluster.after_fork()


os.register_at_fork(after_in_child=_after_fork)

"""A shard of a cluster as a node of the ring: the primary of some slots, with its replicas.

When a replica is promoted, the shard is the same node at another address, as behind Sentinel. So the deletes
that the old primary missed are replayed to the promoted one before it serves reads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Protocol

from cachebackend.clock import Clock
from cachebackend.cluster.keys import DividedReplies, divided, is_of_many_keys, joined, key_of
from cachebackend.cluster.topology import Server, Shard
from cachebackend.drivers import Pending
from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import (
    NodeUnavailableError,
    RedirectedError,
    RingCacheError,
    UnconfirmedError,
    UnservedSlotError,
)
from cachebackend.node import Node
from cachebackend.node.blocking import Connection
from cachebackend.options import NodeAddress
from cachebackend.threads import call_in_thread

__all__ = ["ShardNode", "Topologies"]

_INFO: Command = (b"CLUSTER", b"INFO")
_ASKING: Command = (b"ASKING",)
#: The errors that say that the table of slots is old, or that a slot moves.
_OF_SLOTS = frozenset({RedirectedError, UnservedSlotError})


class Topologies(Protocol):
    """The part of a cluster that its shards use."""

    def load(self) -> None:
        """Read the topology if it was not read yet; an OSError says that no server answers."""
        ...

    def reload(self) -> None:
        """Read the topology; an OSError says that no server answers."""
        ...

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
        ...

    async def follow_async(
        self, asked: ShardNode, commands: Sequence[Command], replies: list[Reply]
    ) -> list[Reply]:
        """Return what ``follow`` returns, in the running event loop."""
        ...


class ShardNode(Node):
    """The present primary of some slots.

    Args:
        cluster: Its cluster.
        address: The URL without host and port, and the endpoint, which all shards share.
        connect_timeout: The most seconds that connecting may take.
        socket_timeout: The most seconds that a reply may take.
        clock: The source of time.
    """

    def __init__(
        self,
        cluster: Topologies,
        address: NodeAddress,
        connect_timeout: float,
        socket_timeout: float,
        clock: Clock,
    ) -> None:
        super().__init__(address, connect_timeout, socket_timeout, clock, self)
        self._cluster, self._clock = cluster, clock
        #: The most seconds that a command may take, and until when one may be under way to a former primary.
        self._command_seconds, self._settled_at = 2 * socket_timeout, 0.0
        #: The present primary; None: the topology was not read yet.
        self.server: Server | None = None
        #: The last primary for which ``become`` has run to its end: a signal handler may raise in it.
        self._became: Server | None = None
        #: The primary that has got the deletes that others missed; only a probe connects to another one.
        self._served: Server | None = None
        #: Another object each time the node is held: what a probe has replayed before that is not enough.
        self._held = object()
        #: The primary to which the present probe replays deletes, and the hold that it ends.
        self._probed: tuple[Server | None, object] = None, None
        #: The thread that runs the present probe, or has run the last one.
        self._prober: threading.Thread | None = None
        #: Called when another server has become the primary; None: nothing depends on it.
        self.on_moved: Callable[[], None] | None = None
        #: Called with keys whose deletes other servers must confirm, and have not; returns whether it has
        #: recorded them. None: nothing does.
        self.on_postponed: Callable[[Sequence[bytes]], bool] | None = None
        #: Returns the postponed deletes, each with the command that deletes its key. A key that is deleted
        #: again has another delete.
        self.postponed: Callable[[], Mapping[Hashable, Command]] = dict
        #: Those of ``postponed`` that the present probe has sent here.
        self._deleted: frozenset[Hashable] = frozenset()
        #: The replicas that the cluster believes to work.
        self.replicas: tuple[Server, ...] = ()

    @property
    def is_identified(self) -> bool:
        """False if its server had no slots when it was found, and no topology has named it since."""
        return self.server is None or bool(self.server.id)

    def primary(self) -> tuple[str, int]:
        """Return host and port of the present primary; read the topology if it was not read yet.

        Raises:
            OSError: No server of the cluster answers.
        """
        if self.server is None:
            self._cluster.load()
        return self._address()

    async def primary_async(self) -> tuple[str, int]:
        """Return what ``primary`` returns, in the running event loop; raises as it does."""
        if self.server is None:
            await call_in_thread(self._cluster.load)
        return self._address()

    def _address(self) -> tuple[str, int]:
        server = self.server
        if server is None:
            message = "the cluster has no shard that owns slots"
            raise ConnectionError(message)
        if server != self._served and threading.current_thread() is not self._prober:
            message = "it was promoted, and has not got yet the deletes that its primary missed"
            raise ConnectionError(message)
        return server.host, server.port

    def become(self, shard: Shard) -> None:
        """Follow a change of the topology: another primary, or other replicas.

            1. thread   finds the node not ejected
            2. cluster  the node gets another primary, and is ejected
            3. thread   connects: refused, because the new primary is not served yet
            4. probe    replays the missed deletes; closes the breaker and serves the primary in one step

        A probe that began before 2 has replayed to the old primary, so it cannot close the breaker.
        """
        self.replicas = shard.replicas
        former = self._became
        if shard.primary == former:
            return
        self.server = shard.primary
        self.name = self.handshake.name = shard.primary.name
        if self.breaker is not None:
            self.breaker.name = self.name
        self.renew_connections()
        is_same = former is not None and former == shard.primary._replace(id="")  # its ID is known now
        if former is None or is_same or self.replay is None:
            self._served = self.server
        else:
            self._settled_at = self._clock.monotonic() + self._command_seconds
            self.hold(f"it has taken over from {former.name}; the deletes that it missed come first")
        if self.on_moved is not None:
            self.on_moved()
        self._became = self.server

    def hold(self, reason: str) -> None:
        """Eject the node until it has got the deletes that it missed; start to replay them.

        The queue has none, so its nodes serve at once. A probe that runs already does not end that:

            1. probe    reads from the outbox what the node has missed
            2. process  misses the delete of a key at another node, and stores it in the outbox
            3. cluster  moves the slot here; the node is held
            4. probe    has replayed what it knows: the next one reads the outbox again
        """
        if self.replay is None or self.breaker is None:
            return
        self._held = object()
        if self.breaker.hold(NodeUnavailableError(reason)):
            self._start_probe()

    def hold_if_up(self, reason: str) -> None:
        """Eject the node as ``hold`` does, unless it is ejected already: its next probe does the same."""
        if self.breaker is not None and not self.breaker.is_open:
            self.hold(reason)

    @property
    def has_just_taken_over(self) -> bool:
        """Whether a command that was sent to the former primary may still be under way."""
        return self._clock.monotonic() < self._settled_at

    def call(self, command: Command) -> Reply:
        """Send one command, where it is redirected to; a failure is returned as the reply."""
        if is_of_many_keys(command):
            return self.send([command]).receive()[0]
        reply = super().call(command)
        if reply.__class__ in _OF_SLOTS:
            [reply] = self._cluster.follow(self, [command], [reply])
        return reply

    def send(self, commands: Sequence[Command]) -> Pending:  # type: ignore[override]  # both are Pending
        """Send commands; ``receive`` of the result returns their replies."""
        plain = divided(commands)
        return DividedReplies(self._followed, commands, plain, super().send(plain))

    def _followed(self, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        return self._cluster.follow(self, commands, replies)

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Return an awaitable of the replies; if the loop's connection is open, the commands are sent now."""
        ejected = self._ejected(commands)
        if ejected is not None:
            return ejected
        plain = divided(commands)
        return self._follow_async(commands, plain, self._start(plain))

    async def _follow_async(
        self,
        commands: Sequence[Command],
        plain: Sequence[Command],
        sent: asyncio.Future[list[Reply]] | None,
    ) -> list[Reply]:
        replies = await self._cluster.follow_async(self, plain, await self._received(sent, plain))
        return replies if plain is commands else joined(commands, replies)

    @property
    def gets_no_reads(self) -> bool:
        """Whether the node is ejected, so that nobody reads from it before it has all deletes."""
        return self.breaker is not None and self.breaker.is_open

    def _prepare_probe(self) -> None:
        """Read the topology: a replica may have been promoted."""
        self._prober = threading.current_thread()
        self._cluster.reload()
        self._probed, self._deleted = (self.server, self._held), frozenset()

    def _is_replayed(self, is_complete: Callable[[], bool]) -> bool:
        """Return whether the present primary has got everything; it is served from now on."""
        if self._probed != (self.server, self._held):
            message = f"node {self.name!r} has taken over or got slots while deletes were replayed"
            raise NodeUnavailableError(message)
        is_deleted = not self.gets_no_reads or self._deleted.issuperset(self.postponed())
        if not is_deleted or not is_complete():
            return False
        self._served = self.server
        return True

    def _check_probe(self, connection: Connection) -> None:
        """Check that the server answers, and believes that the cluster works."""
        [info] = super()._exchange(connection, [_INFO])
        if b"cluster_state:ok" not in info:
            message = f"node {self.name!r} cannot serve: the cluster is down"
            raise NodeUnavailableError(message)

    def _before_replay(self, connection: Connection) -> None:
        """Delete keys that may be here already, although another server has their slot.

            1. process  deletes a key that was moved here; its slot is still moving, and the primary is dead
            2. process  replays the delete to the owner of the slot, which redirects it here: it is postponed
            3. cluster  promotes a replica here, which has the key
            4. reader   is redirected here, as soon as this node is not ejected any more

        Another process may fill a key here before this one deletes it again, so each delete is sent.
        The deletes stay postponed, because a key may also be elsewhere. Those that this probe, or the probe
        of another shard, postpones meanwhile are sent before it ends.

        A node that serves reads gets only what it has missed itself: it is probed for each delete that it
        misses, and there may be thousands of postponed ones. If it is ejected meanwhile, it gets them all.
        """
        if not self.gets_no_reads:
            return
        postponed = self.postponed()
        commands = {each: command for each, command in postponed.items() if each not in self._deleted}
        if commands:
            batch = [each for command in commands.values() for each in (_ASKING, command)]
            connection.send(batch)
            _checked([reply for reply in connection.replies(batch) if type(reply) not in _OF_SLOTS])
        self._deleted = self._deleted.union(commands)

    def _exchange(self, connection: Connection, commands: Sequence[Command]) -> list[Reply]:
        plain = divided(commands)
        connection.send(plain)
        own = list(connection.replies(plain))
        servers: list[ShardNode] = []
        replies = self._cluster.follow(self, plain, list(own), servers)
        self._postpone(plain, own, replies, servers)
        return _checked(joined(commands, replies))

    def _postpone(
        self,
        commands: Sequence[Command],
        own: Sequence[Reply],
        replies: list[Reply],
        servers: Sequence[ShardNode],
    ) -> None:
        """Leave deletes of keys that are elsewhere for later, if they fail there; this node did its part.

        If the probe failed because of keys that nobody reads from this node, its other keys would miss too.
        The server that has failed must not be read before it has got the deletes. It may be one that is up:

            1. probe    replays a delete to this node, whose slot moves; it is redirected to B
            2. B        refuses it (``MISCONF``, ``NOREPLICAS``), or was ejected, and its probe has just ended
            3. probe    the delete is postponed; B is ejected until it has executed the delete
        """
        for position, command in enumerate(commands):
            is_redirected = own[position].__class__ is RedirectedError
            if is_redirected and isinstance(command, ScriptCall) and command.script.is_for_asked:
                replies[position] = 0  # it deletes nothing, and a probe waits for no replicas
        elsewhere = [
            position
            for position, (command, first, reply) in enumerate(zip(commands, own, replies, strict=True))
            if isinstance(reply, RingCacheError)
            and isinstance(command, ScriptCall)
            and (first.__class__ is RedirectedError or not getattr(reply, "ejects", True))
        ]
        keys = [key_of(commands[position]) for position in elsewhere]
        if keys and self.on_postponed is not None and self.on_postponed(keys):
            for position in elsewhere:
                if servers[position] is not self and not isinstance(replies[position], UnconfirmedError):
                    servers[position].hold_if_up("it may have keys whose deletes have failed")
                replies[position] = 0


def _checked(replies: list[Reply]) -> list[Reply]:
    for reply in replies:
        if isinstance(reply, RingCacheError):
            raise reply
    return replies

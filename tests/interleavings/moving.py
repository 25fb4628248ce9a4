"""Scenarios in which a slot moves between two servers of a cluster, forth and back, step by step.

Each process has the real table of a cluster and real shards. Only their connections are replaced: each
group of commands that a server executes in one go is one move of the explorer. So commands, redirections,
the mover's steps and reloads of the table come in every order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from greenlet import getcurrent

from cachebackend import protocol
from cachebackend.client.replay import Replay
from cachebackend.cluster import Cluster, ShardNode
from cachebackend.counters import Counters, Counts
from cachebackend.drivers import FailedNodes, _perform, drive
from cachebackend.effects import Command, Effect, Operation, Reply, Send, is_promise
from cachebackend.errors import NodeUnavailableError, RedirectedError
from cachebackend.node import Breaker, Node
from cachebackend.options import ClusterAddress
from cachebackend.protocol import Context
from cachebackend.protocol.missed_deletes import MissedDeletes
from cachebackend.ring import cluster_slot
from tests.interleavings.actors import Actor
from tests.interleavings.direct import Call, as_operation
from tests.interleavings.processes import CODEC, OPTIONS, Process
from tests.interleavings.readers import Reader
from tests.interleavings.scenario import Scenario
from tests.interleavings.slot_pair import SERVERS, SlotPair
from tests.interleavings.world import KEY, TAG, World
from tests.interleavings.writers import StrictWriter, Writer

__all__ = [
    "LeapingMover",
    "Mover",
    "MovingReader",
    "MovingReaderOfTwo",
    "MovingScenario",
    "MovingStrictWriter",
    "MovingWriter",
    "PlainMovingWriter",
    "Returner",
]

#: Another key of the key's slot, which writers delete too.
OTHER = b"{key}2"
_ADDRESS = ClusterAddress(tuple((server.host, server.port) for server in SERVERS))


class Hop(NamedTuple):
    """Commands that one server executes in one go."""

    server: int
    commands: Sequence[Command]


class _Connection:
    """Passes the commands for one server to the explorer, or to the server if no call is stepped."""

    def __init__(self, process: MovingProcess, server: int) -> None:
        self._process, self._server = process, server

    def call(self, command: Command) -> Reply:
        [reply] = self._exchange([command])
        return reply

    def send(self, commands: Sequence[Command]) -> None:
        del commands  # they are executed when their replies are read

    def replies(self, commands: Sequence[Command]) -> Iterator[Reply]:
        group: list[Command] = []
        for command in commands:
            group.append(command)
            if command[0] != b"ASKING":
                yield from self._exchange(group)
                group = []

    def close(self) -> None:
        """Nothing is open."""

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        hop, call = Hop(self._server, tuple(commands)), getcurrent()
        outcome = call.step(hop) if isinstance(call, Call) else self._process.exchange(hop)
        if isinstance(outcome, Exception):
            raise outcome
        replies: list[Reply] = outcome
        return replies


class _Pool:
    """Makes connections to the present primary of a shard."""

    def __init__(self, process: MovingProcess, node: ShardNode) -> None:
        self._process, self._node = process, node

    def take(self) -> _Connection:
        address = self._node.primary()
        return _Connection(self._process, [(each.host, each.port) for each in SERVERS].index(address))

    make = take

    def release(self, connection: _Connection) -> None:
        """Keep nothing: connections are made for each exchange."""

    release_or_close = release

    def renew(self) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Keep nothing."""


class MovingProcess(Process):
    """A process whose alias is the pair."""

    world: MovingWorld

    def __init__(self, world: MovingWorld, name: str) -> None:
        super().__init__(world, name)
        self.order = (0, 1)
        self.is_reload_due = False
        #: The last server that has redirected this process with MOVED, and the same after the operation.
        self.redirected_by: int | None = None
        self.former_owner: int | None = None
        #: The last version whose delete it has missed while it ejected the owner.
        self.owed = 0
        #: How many commands have failed, beside those to a shard that waits for its replay.
        self.failures = 0
        self.cluster = cluster = Cluster(_ADDRESS, (1.0, 1.0), self.clock)
        self.context = Context(cluster.ring, CODEC, OPTIONS, self.clock, Counters(Counts))
        self.context.missed = MissedDeletes(world.scenario.replay_limit, self.slow)
        self.context.on_missed = self._on_missed
        self.context.patterns = {b"*"}
        cluster.on_node, cluster.rehome = self._prepare, self._rehome
        cluster._reader._ask = lambda host, _: world.pair.topology([s.host for s in SERVERS].index(host))  # type: ignore[method-assign]
        cluster.reload_soon = self._reload_soon  # type: ignore[method-assign]
        self._prepare(0, cluster.shards[0])
        cluster.load()

    def _reload_soon(self) -> None:
        self.is_reload_due = True

    def _prepare(self, index: int, node: ShardNode) -> None:
        node.breaker = Breaker(node.name, self.clock, opens_on_timeout=True)
        node._pool = _Pool(self, node)  # type: ignore[assignment]
        node._spawn = lambda probe: None  # type: ignore[method-assign]  # the explorer probes
        node.replay = Replay(self.context, index, node.endpoint, lambda: self.world.outbox)

    def _rehome(self, owner: Callable[[bytes], int], moves: Collection[tuple[int, int]]) -> set[int]:
        return self.context.missed.rehome(owner, moves, self.cluster.shards.keys())

    def _on_missed(self, position: int, missed: Any) -> None:
        since = self.slow.monotonic()
        if missed and self.world.outbox.keep("cluster", missed):
            self.context.missed.kept(position, missed, since)

    def stepped(self, operation: Operation[Any]) -> Operation[Any]:
        """Return an operation that does the same by effects of which each is one move."""
        cluster, former = self.cluster, self.former_owner
        owner = cluster.shards[cluster.ring.owner_of_slot(self.world.pair.slot)].server
        if former is not None and owner == SERVERS[former] and self.world.pair.owners[former] != former:
            self.world.wrong.append("a process asks a server again that has redirected it with MOVED")
        return as_operation(lambda: self._driven(operation))

    def _driven(self, operation: Operation[Any]) -> Any:
        """Run an operation as ``drive`` does, but leave loads and waits to the explorer."""
        failed: FailedNodes = {}
        call = getcurrent()
        assert isinstance(call, Call)
        try:
            effect = next(operation)
            while True:
                if isinstance(effect, Send):
                    replies = _perform(effect, self.cluster.nodes, failed)
                    errors = [str(reply) for reply in replies if isinstance(reply, NodeUnavailableError)]
                    self.failures += sum("is ejected" not in error for error in errors)
                    effect = operation.send(replies)
                else:
                    effect = operation.send(call.step(effect))
        except StopIteration as end:
            self.former_owner = self.redirected_by
            return end.value

    def run(self, operation: Operation[Any]) -> Any:
        return drive(operation, self.cluster.nodes)

    def perform(self, effect: Effect) -> Any:
        assert isinstance(effect, Hop)
        return self.exchange(effect)

    def exchange(self, hop: Hop) -> Any:
        """Return the replies of a server, or the error of a connection that fails."""
        if self.world.loses_delete(hop):
            return TimeoutError("timed out")
        replies = list(self.world.pair.exchange(hop.server, hop.commands))
        if any(isinstance(reply, RedirectedError) and reply.is_moved for reply in replies):
            self.redirected_by = hop.server
        return replies

    def moves(self) -> list[str]:
        # Where commands may fail, a probe of another shard may read the topology at any time
        is_old = bool(self.world.scenario.accidents) and (self.cluster._epoch or 0) < max(
            self.world.pair.epochs
        )
        moves = ["reload"] if self.is_reload_due or is_old else []
        for index, node in self.cluster.shards.items():
            is_open = node.breaker is not None and node.breaker.is_open
            if is_open or self.context.missed.count(index) != 0 or self.context.orphans.of(index):
                moves.append(f"probe{index}")
        return moves

    def make(self, move: str) -> None:
        if move == "reload":
            self.is_reload_due = False
            self.cluster.reload()
        else:
            self.cluster.shards[int(move[-1])]._probe()

    def oldest_allowed(self) -> int:
        """Return the last version that was confirmed, or that this process owes to a shard which it ejects.

        A shard that answers may be read until it has got the delete, which is sent to it at once.
        """
        if self.world.scenario.is_strict:
            return self.world.acknowledged
        return max(min(self.world.settled), self.owed)

    @property
    def has_ejected_owner(self) -> bool:
        """Whether this process reads the slot's keys nowhere at present."""
        breaker = self.cluster.shards[self.cluster.ring.owner_of_slot(self.world.pair.slot)].breaker
        return breaker is not None and breaker.is_open

    def state(self) -> str:
        cluster = self.cluster
        owner = cluster.ring.owner_of_slot(self.world.pair.slot)
        table = [node.name for node in cluster.shards.values()], owner, cluster._epoch, self.is_reload_due
        recorded = [
            sorted((str(name), since > 0) for name, since in keys.items())
            for _, keys in sorted(self.context.missed._recorded.items())
        ]
        is_open = [node.breaker is not None and node.breaker.is_open for node in cluster.shards.values()]
        return repr(
            (table, recorded, is_open, self.redirected_by, self.former_owner, self.owed, self.acknowledged)
        )


class MovingWorld(World):
    """The pair, and the processes and actors that use it while its slot moves."""

    scenario: MovingScenario

    def __init__(self, nodes: tuple[Node, Node], scenario: MovingScenario) -> None:
        self.pair = SlotPair(nodes, cluster_slot(scenario.moving), is_new=scenario.is_new)
        super().__init__(nodes, scenario)

    def process(self, name: str, deploy: str = "old") -> MovingProcess:
        del deploy
        return MovingProcess(self, name)

    def loses_delete(self, hop: Hop) -> bool:
        """Return whether the network loses these commands: it may do so to a delete, if it is cut."""
        if not self.is_losing or not any(is_promise(command) for command in hop.commands):
            return False
        self.is_losing = False
        return True

    def _cause(self, accident: str) -> None:
        self.remaining[accident] -= 1
        if accident == "lose":
            self.is_losing = True
        else:
            for node in self.nodes:
                node.call((b"DEL", KEY))

    def _relay(self) -> None:
        process = self.process("relay")
        alive = {actor.name for actor in self.actors if not actor.is_done}
        for kind, name in sorted(self.outbox.rows):
            if not process.run(protocol.delete_many(process.context, [self.scenario.target], in_outbox=True)):
                self.settle(self.acknowledged, (0, 1))
                if kind != "intent" or name not in alive:
                    self.outbox.rows.discard((kind, name))

    def record(self) -> bytes:
        return self.contents()[0] or self.contents()[2] or b""

    def contents(self) -> tuple[bytes | None, ...]:
        if self._contents is None:
            found = [node.call((b"MGET", KEY, TAG, OTHER)) for node in self.nodes]
            self._contents = tuple(found[0][:2] + found[1][:2] + found[0][2:] + found[1][2:])
        return self._contents

    def state(self) -> tuple[Any, ...]:
        pair = self.pair
        views = tuple(pair.owners), tuple(pair.epochs), frozenset(pair.importing), frozenset(pair.migrating)
        return *super().state(), views

    def check_end(self) -> None:
        process = self.process("end")
        value = process.run(protocol.get(process.context, KEY))
        if value is not None and value < self.committed:
            self.wrong.append(f"version {value} is cached although {self.committed} is committed")
        if not self.scenario.accidents:
            failures = process.context.counters.total().node_failures
            failures += sum(each.failures for each in self.processes if isinstance(each, MovingProcess))
            if failures:
                self.wrong.append(f"{failures} commands have failed although both servers answer")


class Mover(Actor):
    """Moves the slot to the other server; its steps are those of ``CLUSTER SETSLOT`` and ``MIGRATE``."""

    world: MovingWorld
    steps: tuple[str, ...] = ("import", "migrate", "carry", "give", "report")
    source = 0

    def __init__(self, name: str, world: MovingWorld, process: Process) -> None:
        super().__init__(name, world, process)
        self._left = [(each, self.source) for each in self.steps]

    @property
    def is_done(self) -> bool:
        return not self._left

    def moves(self) -> list[str]:
        return [step for step, _ in self._left[:1]]

    def make(self, move: str) -> None:
        _, source = self._left.pop(0)
        self.history.append((move, source))
        for step in Mover.steps if move == "leap" else (move,):
            self._do(step, source)

    def _do(self, step: str, source: int) -> None:
        pair = self.world.pair
        match step:
            case "import":
                pair.begin_import(1 - source)
            case "migrate":
                pair.begin_migration(source)
            case "carry":
                for key in self.world.scenario.moving_keys:
                    pair.move_key(source, key)
            case "give":
                pair.give(1 - source, 1 - source)
            case _:
                pair.give(source, 1 - source)


class LeapingMover(Mover):
    """Moves the slot with all its keys in one step, as ``CLUSTER MIGRATESLOTS`` does."""

    steps = ("leap",)


class Returner(Mover):
    """Moves the slot to the other server, and back."""

    def __init__(self, name: str, world: MovingWorld, process: Process) -> None:
        super().__init__(name, world, process)
        self._left += [(each, 1) for each in self.steps]


class MovingReader(Reader):
    """Calls ``get_or_load``; each exchange with a server is one move."""

    process: MovingProcess

    def start(self) -> Operation[Any]:
        return self.process.stepped(super().start())


class MovingReaderOfTwo(MovingReader):
    """Reads twice."""

    reads = 2


class MovingWriter(Writer):
    """Writes the row, and deletes two keys; each exchange with a server is one move."""

    process: MovingProcess

    def begin(self, name: str) -> Operation[Any]:
        context, target = self.process.context, self.world.scenario.target
        if name == "delete":
            return protocol.delete_many(context, [OTHER, target], in_outbox=self.in_outbox)
        return super().begin(name)

    def _step(self, name: str) -> bool:
        try:
            if self.operation is None:
                self.operation = self.process.stepped(self.begin(name))
                self.effect = next(self.operation)
            assert self.effect is not None
            outcome = self.process.perform(self.effect)
            self.history.append(repr(outcome))
            self.effect = self.operation.send(outcome)
        except StopIteration as end:
            self.operation = None
            self.unconfirmed = {0, 1} if end.value else set()
            return True
        except NodeUnavailableError:  # the quarantine failed: nothing is written
            self.position = len(self.order)
            return True
        return False

    def _acknowledge(self) -> None:
        super()._acknowledge()
        if self.process.has_ejected_owner:
            self.process.owed = max(self.process.owed, self.version)


class PlainMovingWriter(MovingWriter):
    """Deletes by ``cache.delete_many``, for which no transaction writes an outbox row."""

    in_outbox = False


class MovingStrictWriter(MovingWriter, StrictWriter):
    """A strict write in a transaction."""


@dataclass(frozen=True)
class MovingScenario(Scenario):
    """A scenario in which a slot moves.

    Attributes:
        moving: The key whose slot moves.
        is_new: Whether the second server owns no slot at first.
    """

    moving: bytes = KEY
    is_new: bool = False

    def world(self, nodes: tuple[Node, Node]) -> World:
        return MovingWorld(nodes, self)

    @property
    def has_two_nodes(self) -> bool:
        return True

    @property
    def is_strict(self) -> bool:
        return all(issubclass(actor, StrictWriter | Reader | Mover) for actor in self.actors)

    @property
    def moving_keys(self) -> tuple[bytes, ...]:
        """The keys in the slot that moves."""
        return (TAG,) if self.moving == TAG else (KEY, OTHER)

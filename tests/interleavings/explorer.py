"""Steps the real operations of readers and writers against each other, in every order, on real nodes.

A schedule is a list of moves. Each is run from empty nodes, because a generator cannot be
wound back; states that were seen are not gone on from. A state is what stands on the nodes,
what the database holds, what each process knows, and all that each actor was told so far, which
decides what it does next: tokens are numbered, time stands still unless somebody waits.

There are two nodes. The second is the gutter, or the owner in the ring that is entered while the ring
is changed. Either may fail and return, with its old memory or empty. Each actor is a process of its
own, or all are one: its breakers open at the first command that is not answered; what it noted
and what the outbox has is told to a node by the real replay, and the breaker closes by the real look
at what was noted meanwhile. The relay moves when it likes, and at last until nothing is owed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cachebackend import protocol
from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Command, Effect, Load, Operation, ScriptCall, Send, Sleep
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.node import Breaker, Node
from cachebackend.options import RingOptions
from cachebackend.protocol import Context, FillOptions, missed_deletes
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedDeletes, MissedKeys
from cachebackend.protocol.ring import replay as replay_module
from cachebackend.ring import Ring

KEY, TAG = b"key", b"tag"
OPTIONS = RingOptions.read("redis://unused?name=a", {"early_refresh_beta": 0}, "CACHES")
RING, CODEC = Ring([("a", 1.0)]), Codec("auto")
MINUTE = FillOptions(60_000)
#: Where time stands, in seconds since 1970.
NOW = 1_000_000.0
NAMES = ("a", "b")
#: Which node comes first in a process' settings, and whether the second is the ring that is left, and warm.
DEPLOYS: dict[str, tuple[tuple[int, ...], bool, bool]] = {
    "old": ((0,), False, False),
    "joining": ((0, 1), False, False),
    "leaving": ((1, 0), True, True),
    "cold": ((1, 0), True, False),
    "new": ((1,), False, False),
}


class StepClock:
    """An actor's own clock: it moves when the actor waits; tokens are its own, and numbered."""

    def __init__(self, name: str) -> None:
        self.name, self.waited, self.tokens = name, 0.0, 0

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return self.waited

    def random(self) -> float:
        return 0.5

    def token(self) -> bytes:
        self.tokens += 1
        return f"{self.name}{self.tokens}".encode().ljust(16, b".")


class SlowClock(StepClock):
    """Between any two looks so much time passes that the relay may have settled what came before."""

    def monotonic(self) -> float:
        self.waited += missed_deletes.SETTLING_SECONDS
        return self.waited


class Outbox:
    """The rows that stand: what they owe, and whose transaction or intent they are, if anybody's.

    Args:
        target: The key that the rows of keys owe.
    """

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.rows: set[tuple[str, str]] = set()

    def keep(self, node: str, owed: MissedKeys) -> bool:
        self.rows.add(("everything", node) if owed.is_all_keys else ("keys", ""))
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        owes_keys = any(kind != "everything" for kind, _ in self.rows)
        if ("everything", node) in self.rows or owes_keys > limit:
            return ALL_KEYS
        return MissedKeys((self.target,) if owes_keys else ())


class Process:
    """What a process knows of the nodes: its breakers, what it noted that they missed, its settings.

    Attributes:
        order: The nodes, as its settings have them.
        known: By node, the last version that it was told of for certain when it was let in here.
    """

    def __init__(self, world: World, name: str, deploy: str = "old") -> None:
        self.world, self.clock = world, StepClock(name)
        self.order, is_old, is_warm = DEPLOYS[deploy]
        self.breakers = [Breaker(each, self.clock) for each in NAMES]
        self.known = [0, 0]
        #: The last version that was acknowledged here.
        self.acknowledged = 0
        #: By node that is being let in: the last version that had been acknowledged when it was told.
        self.telling: dict[int, int] = {}
        self.context = Context(RING, CODEC, OPTIONS, self.clock, Counters(Counts))
        self.slow = SlowClock(name)
        self.context.missed = MissedDeletes(world.scenario.replay_limit, self.slow)
        self.context.on_missed = self._on_missed
        self.context.patterns = {b"*"}
        if len(self.order) > 1:
            self.context.ring_change = RingChange(RING, (1,), is_old, is_warm)
        if world.scenario.has_gutter:
            self.order = (0, 1)
            self.context.gutter = Gutter(RING, (1,), 10_000, lambda at: self.is_open(self.order[at]))

    def is_open(self, node: int) -> bool:
        return self.breakers[node].is_open

    def _on_missed(self, at: int, owed: MissedKeys) -> None:
        """Do as ``RingClient`` does."""
        since = self.slow.monotonic()
        if owed and self.world.outbox.keep(NAMES[self.order[at]], owed):
            self.context.missed.kept(at, owed, since)

    def run(self, operation: Operation[Any]) -> Any:
        try:
            effect = next(operation)
            while True:
                effect = operation.send(self.perform(effect))
        except StopIteration as end:
            return end.value

    def perform(self, effect: Effect) -> list[Any]:
        assert isinstance(effect, Send)
        return [self._call(self.order[at], command) for at, command in effect.requests]

    def _call(self, node: int, command: Command) -> Any:
        if self.is_open(node):
            return NodeUnavailableError("ejected")
        if node in self.world.down:
            self.breakers[node].failed(NodeUnavailableError("down"), at_once=True)
            return NodeUnavailableError("down")
        return self.world.call(node, command)

    def moves(self) -> list[str]:
        """Return what its probes may do next."""
        found = []
        for at, node in enumerate(self.order):
            if node in self.world.down:
                continue
            if node in self.telling:
                found.append(f"close{node}")
            elif self.is_open(node) or self.context.missed.count(at) != 0:
                # Who is alone in its process cannot come in between
                found.append(f"tell{node}" if self.world.scenario.is_one_process else f"probe{node}")
        return found

    def make(self, what: str) -> None:
        node = int(what[-1])
        at, context = self.order.index(node), self.context
        if what.startswith(("tell", "probe")):
            self.telling[node] = self.world.acknowledged
            self._tell(node, replay_module.replay(context, at, self.world.outbox, NAMES[node]))
        if what.startswith("tell"):
            return
        if self.breakers[node].close(lambda: context.missed.count(at) == 0):
            self.known[node] = max(self.known[node], self.telling.pop(node), self.acknowledged)
        else:
            self._tell(node, replay_module.replay_missed(context, at))

    def _tell(self, node: int, operation: Operation[None]) -> None:
        """Run an operation on a node that is let nobody else in."""
        try:
            effect = next(operation)
            while isinstance(effect, Send):
                effect = operation.send([self.world.call(node, command) for _, command in effect.requests])
        except StopIteration:
            return

    def floor(self) -> int:
        """Return the last version that whoever reads here now must be given.

        A node that this process has ejected is not read; another may be read as it was until it is told.
        """
        if self.world.scenario.is_strict:
            return self.world.acknowledged
        return min(
            self.world.acknowledged if self.is_open(node) else max(self.world.settled[node], self.known[node])
            for node in self.order
        )

    def state(self) -> str:
        noted = [
            sorted((str(name), since > 0) for name, since in keys.items())
            for keys in self.context.missed._recorded.values()
        ]
        is_open = [breaker.is_open for breaker in self.breakers]
        return repr((is_open, noted, self.known, self.telling, self.acknowledged))


class World:
    """Two nodes, one row whose version counts its commits, and who acts on them.

    Attributes:
        acknowledged: The last version whose writer was done.
        settled: By node, the last one that it was told of, as far as those who told it know.
    """

    def __init__(self, nodes: tuple[Node, Node], scenario: Scenario) -> None:
        self.nodes, self.scenario = nodes, scenario
        self.committed = self.acknowledged = 0
        self.settled = [0, 0]
        self.down: set[int] = set()
        self.outbox = Outbox(scenario.target)
        self.wrong: list[str] = []
        for node in nodes if scenario.has_two_nodes else nodes[:1]:
            node.call((b"DEL", KEY, TAG))
        for command in scenario.before:
            nodes[0].call(command)
        deploys = scenario.deploys or ("old",) * len(scenario.actors)
        self.processes = [
            Process(self, f"{number}", deploy)
            for number, deploy in enumerate(deploys[:1] if scenario.is_one_process else deploys)
        ]
        self.actors = [
            make(f"{number}", self, self.processes[0 if scenario.is_one_process else number])
            for number, make in enumerate(scenario.actors)
        ]
        self.left = dict(scenario.accidents)

    def call(self, node: int, command: Command) -> Any:
        # scripts go whole, so that a node that knows none takes the same steps
        return self.nodes[node].call(command.with_source if isinstance(command, ScriptCall) else command)

    def settle(self, version: int, nodes: Iterable[int]) -> None:
        """Note that nodes were told of all up to a version."""
        for node in nodes:
            self.settled[node] = max(self.settled[node], version)

    def moves(self) -> list[str]:
        """Return what may happen next."""
        found = [
            f"actor{number} {move}" for number, actor in enumerate(self.actors) for move in actor.moves()
        ]
        for number, process in enumerate(self.processes):
            if any(actor.process is process and not actor.is_done for actor in self.actors):
                found += [f"process{number} {move}" for move in process.moves()]
        stands = self.stands()
        if self.left.get("lapse") and stands[:1] == b"L":
            found.append("accident lapse")
        if self.left.get("evict") and stands and stands[:1] != b"Q":
            found.append("accident evict")
        if self.left.get("flush"):
            found.append("accident flush")
        for node in (0, 1):
            if node in self.down:
                found += [f"accident return{node}", f"accident restart{node}"]
            elif self.left.get(f"fail{node}"):
                found.append(f"accident fail{node}")
        if self.outbox.rows and (self.left.get("relay") or not found):
            found.append("relay settles")
        return found

    def make(self, move: str) -> None:
        """Let one thing happen."""
        who, what = move.split()
        if who == "accident":
            self._have_accident(what)
        elif who == "relay":
            self.left["relay"] = max(0, self.left.get("relay", 0) - 1)
            self._relay()
        elif who.startswith("process"):
            self.processes[int(who[-1])].make(what)
        else:
            self.actors[int(who[-1])].make(what)

    def _have_accident(self, what: str) -> None:
        self.left[what] = self.left.get(what, 1) - 1
        node = int(what[-1]) if what[-1].isdigit() else 0
        if what.startswith("fail"):
            self.down.add(node)
        elif what.startswith(("return", "restart")):
            self.down.discard(node)
        if what.startswith(("flush", "restart")):
            self.nodes[node].call((b"FLUSHDB",))
        elif what in {"lapse", "evict"}:
            self.nodes[0].call((b"DEL", KEY))

    def _relay(self) -> None:
        """Act on all rows, as a process that is new; keep those that no node confirmed, and live intents."""
        process = Process(self, "relay", self.scenario.relay)
        alive = {actor.name for actor in self.actors if not actor.is_done}
        for kind, whose in sorted(self.outbox.rows):
            if kind == "everything":
                at = process.order.index(NAMES.index(whose))
                is_confirmed = process.run(protocol.clear_missed(process.context, b"*", [at]))
                told = [NAMES.index(whose)]
            else:
                target = [self.scenario.target]
                is_confirmed = not process.run(protocol.delete_many(process.context, target, in_outbox=True))
                told = list(process.order)
            if is_confirmed:
                self.settle(self.acknowledged, told)
                if kind != "intent" or whose not in alive:
                    self.outbox.rows.discard((kind, whose))

    def stands(self) -> bytes:
        return self.nodes[0].call((b"GET", KEY)) or b""

    def state(self) -> tuple[Any, ...]:
        held = [self.stands(), self.nodes[0].call((b"GET", TAG))]
        if self.scenario.has_two_nodes:
            held.append(self.nodes[1].call((b"GET", KEY)))
        told = tuple(tuple(actor.told) for actor in self.actors)
        known = tuple(process.state() for process in self.processes)
        versions = self.committed, self.acknowledged, tuple(self.settled)
        left = tuple(sorted(self.left.items()))
        return tuple(held), told, known, versions, frozenset(self.outbox.rows), frozenset(self.down), left

    def check_end(self) -> None:
        """Note if something from before the last commit would be served from now on."""
        for deploy in self.scenario.deploys or ("old",):
            for is_open in (False, True) if self.scenario.has_gutter else (False,):
                process = Process(self, "end", deploy)
                if is_open:
                    process.breakers[0].failed(NodeUnavailableError("down"), at_once=True)
                value = process.run(protocol.get(process.context, KEY))
                if value is not None and value < self.committed:
                    self.wrong.append(f"version {value} stands though {self.committed} is committed")


class Actor:
    """Who acts in a process, one move after another."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        self.name, self.world, self.process = name, world, process
        self.clock = StepClock(name)
        #: What decides what it does next.
        self.told: list[Any] = []

    @property
    def is_done(self) -> bool:
        raise NotImplementedError

    def moves(self) -> list[str]:
        raise NotImplementedError

    def make(self, what: str) -> None:
        raise NotImplementedError


class Reader(Actor):
    """``get_or_load`` of the row, one effect a move."""

    #: How often it reads.
    reads = 1

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.began_at: int | None = None
        self.operation: Operation[Any] | None = None
        self.effect: Effect | None = None
        self.left = self.reads

    @property
    def is_done(self) -> bool:
        return not self.left

    def moves(self) -> list[str]:
        return [] if self.is_done else ["step"]

    def make(self, what: str) -> None:
        if self.operation is None:
            self.began_at = self.process.floor()
            self.operation = protocol.get_or_load(
                self.context(), KEY, lambda: None, self.world.scenario.fill_options
            )
            self.effect = next(self.operation)
        outcome = self.perform()
        self.told.append((type(self.effect).__name__, repr(outcome), self.began_at))
        try:
            self.effect = self.operation.send(outcome)
        except StopIteration as end:
            self.finish(end.value)

    def context(self) -> Context:
        context = self.process.context
        return context.for_strict() if self.world.scenario.is_strict else context

    def perform(self) -> Any:
        match self.effect:
            case Load():
                return self.world.scenario.load(self)
            case Sleep():
                self.process.clock.waited += OPTIONS.lease_timeout
                return None
            case effect:
                assert effect is not None
                return self.process.perform(effect)

    def finish(self, value: int) -> None:
        self.left -= 1
        self.operation = None
        self.told.append(("returned", value))
        assert self.began_at is not None
        if value < self.began_at:
            self.world.wrong.append(f"read {value} though {self.began_at} was acknowledged before it began")


class OldSnapshotReader(Reader):
    """A reader whose database snapshot is from before it asked the cache."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.snapshot: int | None = None

    def make(self, what: str) -> None:
        if self.snapshot is None:
            self.snapshot = self.world.committed
            self.told.append(("snapshot", self.snapshot))
        else:
            super().make(what)


class ReaderOfTwo(Reader):
    """Reads, and reads again."""

    reads = 2


class GutterReader(ReaderOfTwo):
    """What must not be done: it reads strict rows in the gutter."""

    def context(self) -> Context:
        return self.process.context


class Writer(Actor):
    """Writes the row: commit, then the real delete; or the real quarantine around the commit."""

    #: In the order of ``invalidation.transactions``.
    order: tuple[str, ...] = ("commit", "delete", "acknowledge")
    may_crash = False
    #: An outbox row is committed with the row that is written.
    in_outbox = True

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.token = self.process.clock.token()
        self.version = self.at = 0
        self.operation: Operation[Any] | None = None
        self.effect: Effect | None = None
        #: Nodes that did not confirm what they were told.
        self.unconfirmed: set[int] = set()

    @property
    def is_done(self) -> bool:
        return self.at >= len(self.order)

    def moves(self) -> list[str]:
        if self.is_done:
            return []
        has_begun = self.at > 0 or self.operation is not None
        return [self.order[self.at]] + (["crash"] if self.may_crash and has_begun else [])

    def make(self, what: str) -> None:
        self.told.append(what)
        if what == "crash":
            self.at = len(self.order)
            return
        rows = self.world.outbox.rows
        match what:
            case "intend":
                rows.add(("intent", self.name))
            case "commit":
                self.world.committed += 1
                self.version = self.world.committed
                if self.in_outbox and ("intent", self.name) not in rows:
                    rows.add(("keys", self.name))
            case "acknowledge":
                self._acknowledge()
            case _:
                if not self._step(what):
                    return
        self.at += 1

    def _step(self, what: str) -> bool:
        """Do one effect of an operation; return whether it was the last."""
        context, target = self.process.context, self.world.scenario.target
        try:
            if self.operation is None:
                self.unconfirmed = set()
                self.operation = {
                    "delete": lambda: protocol.delete_many(context, [target], in_outbox=self.in_outbox),
                    "clear": lambda: protocol.clear(context, b"*"),
                    "soften": lambda: protocol.make_stale(context, KEY, 30_000),
                    "quarantine": lambda: protocol.quarantine(context, [KEY], self.token),
                    "unquarantine": lambda: protocol.unquarantine(context, [KEY], self.token),
                }[what]()
                self.effect = next(self.operation)
            assert isinstance(self.effect, Send)
            replies = self.process.perform(self.effect)
            for (at, _), reply in zip(self.effect.requests, replies, strict=True):
                if isinstance(reply, RingCacheError):
                    self.unconfirmed.add(self.process.order[at])
            self.told.append(repr(replies))
            self.effect = self.operation.send(replies)
        except StopIteration:
            self.operation = None
            return True
        except NodeUnavailableError:  # a quarantine is refused: nothing is written
            self.world.outbox.rows.discard(("intent", self.name))
            self.at = len(self.order)
            return True
        return False

    def _acknowledge(self) -> None:
        world = self.world
        world.acknowledged = max(world.acknowledged, self.version)
        self.process.acknowledged = max(self.process.acknowledged, self.version)
        world.settle(self.version, [node for node in (0, 1) if node not in self.unconfirmed])
        if not self.unconfirmed:
            world.outbox.rows -= {("keys", self.name), ("intent", self.name)}


class CrashingWriter(Writer):
    may_crash = True


class PlainWriter(Writer):
    """Deletes by ``cache.delete``, which no transaction owes."""

    in_outbox = False


class PlainWriterOfTwo(PlainWriter):
    """Writes, and writes again."""

    order = ("commit", "delete", "acknowledge") * 2


class Clearer(PlainWriter):
    """Clears the cache instead."""

    order = ("commit", "clear", "acknowledge")


class StrictWriter(Writer):
    """In a transaction."""

    order = ("quarantine", "commit", "unquarantine", "acknowledge")


class CrashingStrictWriter(StrictWriter):
    may_crash = True


class StrictStatement(StrictWriter):
    """In autocommit: the outbox has the intent before, and the relay acts on it."""

    order = ("intend", "quarantine", "commit", "unquarantine", "acknowledge")


class CrashingStrictStatement(StrictStatement):
    may_crash = True


class SoftWriter(Writer):
    """Makes the value stale instead of deleting it; its readers allow no stale value."""

    order = ("commit", "soften", "acknowledge")


class HastyWriter(Writer):
    """What must not be done: the delete comes before the commit."""

    order = ("delete", "commit", "acknowledge")


@dataclass(frozen=True)
class Scenario:
    """Who acts, what stands at first, and what may happen besides.

    Attributes:
        actors: Made anew for each schedule.
        before: Commands that make the first node what it is at first.
        accidents: How often each may happen: ``lapse``, ``evict``, ``flush``, ``fail0``, ``fail1``
            (who failed returns), and ``relay``: that it moves while others may.
        keep: How readers keep what they load.
        by_tag: Writers delete the tag instead of the key.
        has_gutter: The second node is the gutter.
        deploys: What each actor's settings say of the change of the ring; none: there is no change.
        relay: What the relay's say.
        is_one_process: All actors are threads of one process.
        replay_limit: How many keys a node is told one by one.
    """

    actors: tuple[type[Reader] | type[Writer], ...]
    before: tuple[tuple[Any, ...], ...] = ()
    accidents: tuple[tuple[str, int], ...] = ()
    fill_options: FillOptions = MINUTE
    by_tag: bool = False
    has_gutter: bool = False
    deploys: tuple[str, ...] = ()
    relay: str = "old"
    is_one_process: bool = False
    replay_limit: int = 10_000

    @property
    def target(self) -> bytes:
        """What writers delete."""
        return TAG if self.by_tag else KEY

    @property
    def has_two_nodes(self) -> bool:
        """Whether the second node is there, too."""
        return self.has_gutter or bool(self.deploys)

    @property
    def is_strict(self) -> bool:
        """Whether all writers are."""
        return all(issubclass(actor, StrictWriter | Reader) for actor in self.actors)

    def load(self, reader: Reader) -> int:
        """Return the row's version, as a reader's database shows it to it."""
        snapshot = getattr(reader, "snapshot", None)
        return reader.world.committed if snapshot is None else snapshot


@dataclass
class Explored:
    """What came of a scenario.

    Attributes:
        schedules: Schedules that were run to their end.
        states: Different states that were met.
        wrong: What was found to be wrong, with the first schedule that shows it.
    """

    schedules: int = 0
    states: int = 0
    wrong: list[tuple[str, list[str]]] = field(default_factory=list)


def explore(nodes: tuple[Node, Node], scenario: Scenario, *, stop_at_first: bool = False) -> Explored:
    """Run every schedule of a scenario; equal states are gone on from once."""
    logger = logging.getLogger("cachebackend")  # that a node is ejected is no news here
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return _explore(nodes, scenario, stop_at_first)
    finally:
        logger.setLevel(level)


def _explore(nodes: tuple[Node, Node], scenario: Scenario, stop_at_first: bool) -> Explored:
    explored, seen = Explored(), set()
    waiting: list[list[str]] = [[]]
    while waiting:
        schedule = waiting.pop()
        world = _played(nodes, scenario, schedule)
        moves = world.moves()
        while True:
            state = world.state()
            if state in seen:
                break
            seen.add(state)
            if not moves:
                explored.schedules += 1
                world.check_end()
            explored.wrong += [(wrong, schedule) for wrong in world.wrong]
            if not moves or world.wrong:
                break
            waiting += [[*schedule, move] for move in moves[1:]]
            schedule = [*schedule, moves[0]]
            world.make(moves[0])
            moves = world.moves()
        if explored.wrong and stop_at_first:
            break
    explored.states = len(seen)
    return explored


def _played(nodes: tuple[Node, Node], scenario: Scenario, schedule: list[str]) -> World:
    world = World(nodes, scenario)
    for move in schedule:
        world.make(move)
    return world


def values(version: int, fill_options: FillOptions, *, fresh: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that make a loaded value stand, past its time already or fresh."""
    from cachebackend.codec import Refresh

    record = Codec("auto").encode(version, Refresh(NOW + 60 if fresh else NOW - 1, 0.1))
    yield (b"SET", KEY, record, b"PX", (fill_options.ttl_ms or 0) + fill_options.stale_ms)

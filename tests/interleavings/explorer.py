"""Steps the real operations of readers and writers against each other, in every order, on real nodes.

A schedule is a list of moves. Each is run from an empty node, because a generator cannot be
wound back; states that were seen are not gone on from. A state is what stands on the node,
what the database holds, and all that each actor was told so far, which decides what it
does next: tokens are numbered, time stands still unless somebody waits.

The second node is the gutter. The first may fail and return, with its old memory or empty;
each actor is a process with a breaker of its own, which opens at the first command that is not
answered and closes when its probe has replayed what is owed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cachebackend import protocol
from cachebackend.codec import Codec
from cachebackend.effects import Effect, Load, Operation, Send, Sleep
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Node
from cachebackend.options import RingOptions
from cachebackend.protocol import Context, Keep
from cachebackend.protocol.context import Gutter
from cachebackend.ring import Ring
from cachebackend.stats import Stats

KEY, TAG = b"key", b"tag"
OPTIONS = RingOptions.read("redis://unused?name=a", {"early_refresh_beta": 0}, "CACHES")
RING, CODEC = Ring([("a", 1.0)]), Codec("auto")
MINUTE = Keep(60_000)
#: Where time stands, in seconds since 1970.
NOW = 1_000_000.0


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


class Process:
    """What an actor's process knows of the node: whether its breaker is open."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.clock = world, StepClock(name)
        self.is_open = False
        gutter = Gutter(RING, (1,), 10_000, lambda _: self.is_open)
        self.context = Context(RING, CODEC, OPTIONS, self.clock, Stats())
        self.context.gutter = gutter if world.scenario.has_gutter else None

    def run(self, operation: Operation[Any]) -> Any:
        try:
            effect = next(operation)
            while True:
                effect = operation.send(self.perform(effect))
        except StopIteration as end:
            return end.value

    def perform(self, effect: Effect) -> Any:
        assert isinstance(effect, Send)
        return [self._call(node, command) for node, command in effect.requests]

    def _call(self, node: int, command: Any) -> Any:
        if node == 0 and (self.is_open or self.world.is_down):
            self.is_open = True
            return NodeUnavailableError("down")
        # scripts go whole, so that a node that knows none takes the same steps
        return self.world.nodes[node].call(getattr(command, "with_source", command))

    def probe(self) -> None:
        """Be answered, tell the node what the outbox has, and close the breaker."""
        if self.world.owed:
            self.world.nodes[0].call((b"DEL", KEY))
            self.world.settle()
        self.is_open = False


class World:
    """Two nodes, one row whose version counts its commits, and who acts on them.

    Attributes:
        acknowledged: The last version whose writer was done.
        settled: The last one that the node had been told of by then.
    """

    def __init__(self, nodes: tuple[Node, Node], scenario: Scenario) -> None:
        self.nodes, self.scenario = nodes, scenario
        self.committed = self.acknowledged = self.settled = 0
        self.owed = self.is_down = False
        self.wrong: list[str] = []
        for node in nodes if scenario.has_gutter else nodes[:1]:
            node.call((b"DEL", KEY, TAG))
        for command in scenario.before:
            nodes[0].call(command)
        self.actors = [make(f"{number}", self) for number, make in enumerate(scenario.actors)]
        self.left = dict(scenario.accidents)

    def settle(self) -> None:
        """Note that the node was told of all that was acknowledged."""
        self.settled = self.acknowledged

    def moves(self) -> list[str]:
        """Return what may happen next."""
        found = [f"{number} {move}" for number, actor in enumerate(self.actors) for move in actor.moves()]
        stands = self.stands()
        if self.left.get("lapse") and stands[:1] == b"L":
            found.append("accident lapse")
        if self.left.get("evict") and stands and stands[:1] != b"Q":
            found.append("accident evict")
        if self.left.get("flush"):
            found.append("accident flush")
        if self.is_down:
            found += ["accident return", "accident restart"]
        elif self.left.get("fail"):
            found.append("accident fail")
        if not found and self.owed:
            found.append("relay delete")
        return found

    def make(self, move: str) -> None:
        """Let one thing happen."""
        who, what = move.split()
        if who == "accident":
            self.left[what] = self.left.get(what, 1) - 1
            self.is_down = what == "fail"
            if what in {"flush", "restart"}:
                self.nodes[0].call((b"FLUSHDB",))
            elif what in {"lapse", "evict"}:
                self.nodes[0].call((b"DEL", KEY))
        elif who == "relay":
            process = Process(self, "relay")
            assert process.run(protocol.delete_many(process.context, [self.scenario.target])) == []
            self.owed = False
            self.settle()
        else:
            self.actors[int(who)].make(what)

    def stands(self) -> bytes:
        return self.nodes[0].call((b"GET", KEY)) or b""

    def state(self) -> tuple[Any, ...]:
        held = [self.stands(), self.nodes[0].call((b"GET", TAG))]
        if self.scenario.has_gutter:
            held.append(self.nodes[1].call((b"GET", KEY)))
        told = tuple((tuple(actor.told), actor.process.is_open) for actor in self.actors)
        versions = self.committed, self.acknowledged, self.settled
        return tuple(held), told, versions, self.owed, self.is_down, tuple(sorted(self.left.items()))

    def check_end(self) -> None:
        """Note if something from before the last commit would be served from now on."""
        for is_open in (False, True) if self.scenario.has_gutter else (False,):
            process = Process(self, "end")
            process.is_open = is_open
            value = process.run(protocol.get(process.context, KEY))
            if value is not None and value < self.committed:
                self.wrong.append(f"version {value} stands though {self.committed} is committed")


class Reader:
    """``get_or_load`` of the row, one effect a move."""

    #: How often it reads.
    reads = 1

    def __init__(self, name: str, world: World) -> None:
        self.world, self.process = world, Process(world, name)
        self.clock = self.process.clock
        self.told: list[Any] = []
        self.began_at: int | None = None
        self.operation: Operation[Any] | None = None
        self.effect: Effect | None = None
        self.left = self.reads

    @property
    def is_done(self) -> bool:
        return not self.left

    def moves(self) -> list[str]:
        if self.is_done:
            return []
        return ["step", "probe"] if self.process.is_open and not self.world.is_down else ["step"]

    def make(self, what: str) -> None:
        if what == "probe":
            self.process.probe()
            return
        if self.operation is None:
            scenario = self.world.scenario
            # Who ejected the node does not read it; others may until it is told
            knows_all = scenario.is_strict or self.process.is_open
            self.began_at = self.world.acknowledged if knows_all else self.world.settled
            self.operation = protocol.get_or_load(self.context(), KEY, lambda: None, scenario.keep)
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
                self.clock.waited += OPTIONS.lease_timeout
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

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, world)
        self.snapshot: int | None = None

    def make(self, move: str) -> None:
        if self.snapshot is None:
            self.snapshot = self.world.committed
            self.told.append(("snapshot", self.snapshot))
        else:
            super().make(move)


class ReaderOfTwo(Reader):
    """Reads, and reads again."""

    reads = 2


class CarelessReader(ReaderOfTwo):
    """What must not be done: its breaker closes as if the node had been told all, which it was not."""

    def make(self, what: str) -> None:
        if what == "probe":
            self.process.is_open = False
            self.world.settle()
        else:
            super().make(what)


class GutterReader(Reader):
    """What must not be done: it reads strict rows in the gutter."""

    def context(self) -> Context:
        return self.process.context


class Writer:
    """Writes the row: commit, then the real delete; or the real quarantine around the commit."""

    #: In the order of ``invalidation.transactions``.
    order = ("commit", "delete", "acknowledge")
    may_crash = False
    #: The relay deletes what a crash left; a strict write needs none.
    is_owed = True
    #: Whether the node confirmed the delete.
    is_confirmed = True

    def __init__(self, name: str, world: World) -> None:
        self.world, self.process = world, Process(world, name)
        self.token = self.process.clock.token()
        self.told: list[Any] = []
        self.at = 0

    def moves(self) -> list[str]:
        if self.at >= len(self.order):
            return []
        return [self.order[self.at]] + (["crash"] if self.may_crash and self.at > 0 else [])

    def make(self, what: str) -> None:
        self.told.append(what)
        self.at = len(self.order) if what == "crash" else self.at + 1
        world, context, run = self.world, self.process.context, self.process.run
        match what:
            case "commit":
                world.committed += 1
                self.version = world.committed
                world.owed = world.owed or self.is_owed
            case "delete":
                self.is_confirmed = not run(protocol.delete_many(context, [world.scenario.target]))
            case "soften":
                run(protocol.make_stale(context, KEY, 30_000))
            case "quarantine":
                try:
                    run(protocol.quarantine(context, [KEY], self.token))
                except NodeUnavailableError:
                    self.at = len(self.order)  # refused: nothing is written
            case "unquarantine":
                self.is_confirmed = not run(protocol.unquarantine(context, [KEY], self.token))
            case "acknowledge":
                world.acknowledged = max(world.acknowledged, self.version)
                if self.is_confirmed:
                    world.settle()
                    world.owed = False
                else:
                    world.owed = True


class CrashingWriter(Writer):
    may_crash = True


class StrictWriter(Writer):
    is_owed = False
    order = ("quarantine", "commit", "unquarantine", "acknowledge")


class CrashingStrictWriter(StrictWriter):
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
        before: Commands that make the node what it is at first.
        accidents: How often each may happen: ``lapse``, ``evict``, ``flush``, ``fail``; who
            failed returns.
        keep: How readers keep what they load.
        by_tag: Writers delete the tag instead of the key.
        has_gutter: The second node is there, too.
    """

    actors: tuple[type[Reader] | type[Writer], ...]
    before: tuple[tuple[Any, ...], ...] = ()
    accidents: tuple[tuple[str, int], ...] = ()
    keep: Keep = MINUTE
    by_tag: bool = False
    has_gutter: bool = False

    @property
    def target(self) -> bytes:
        """What writers delete."""
        return TAG if self.by_tag else KEY

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


def values(version: int, keep: Keep, *, fresh: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that make a loaded value stand, past its time already or fresh."""
    from cachebackend.codec import Refresh

    record = Codec("auto").encode(version, Refresh(NOW + 60 if fresh else NOW - 1, 0.1))
    yield (b"SET", KEY, record, b"PX", (keep.ttl_ms or 0) + keep.stale_ms)

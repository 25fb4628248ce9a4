"""Steps the real operations of readers and writers against each other, in every order, on a real node.

A schedule is a list of moves. Each is run from an empty node, because a generator cannot be
wound back; states that were seen are not gone on from. A state is what stands on the node,
what the database holds, and all that each actor was told so far, which decides what it
does next: tokens are numbered, time stands still unless somebody waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cachebackend import protocol
from cachebackend.codec import Codec
from cachebackend.effects import Effect, Load, Operation, Send, Sleep
from cachebackend.node import Node
from cachebackend.options import RingOptions
from cachebackend.protocol import Context, Keep
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


class World:
    """One node, one row whose version counts its commits, and who acts on them."""

    def __init__(self, node: Node, scenario: Scenario) -> None:
        self.node, self.scenario = node, scenario
        self.committed = self.acknowledged = 0
        self.owed = False
        self.wrong: list[str] = []
        node.call((b"DEL", KEY, TAG))
        for command in scenario.before:
            node.call(command)
        self.actors = [make(f"{number}", self) for number, make in enumerate(scenario.actors)]
        self.left = dict(scenario.accidents)

    def context(self, clock: StepClock) -> Context:
        return Context(RING, CODEC, OPTIONS, clock, Stats())

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
        if not found and self.owed:
            found.append("relay delete")
        return found

    def make(self, move: str) -> None:
        """Let one thing happen."""
        who, what = move.split()
        if who == "accident":
            self.left[what] -= 1
            self.node.call((b"FLUSHALL",) if what == "flush" else (b"DEL", KEY))
        elif who == "relay":
            self.owed = False
            self.node.call((b"DEL", TAG if self.scenario.by_tag else KEY))
        else:
            self.actors[int(who)].make(what)

    def stands(self) -> bytes:
        return self.node.call((b"GET", KEY)) or b""

    def state(self) -> tuple[Any, ...]:
        held = (self.stands(), self.node.call((b"GET", TAG)))
        told = tuple(tuple(actor.told) for actor in self.actors)
        return held, told, self.committed, self.acknowledged, self.owed, tuple(self.left.values())

    def check_end(self) -> None:
        """Note if something from before the last commit would be served from now on."""
        context = self.context(StepClock("end"))
        value = self.run(protocol.get(context, KEY))
        if value is not None and value < self.committed:
            self.wrong.append(f"version {value} stands though {self.committed} is committed")

    def run(self, operation: Operation[Any]) -> Any:
        try:
            effect = next(operation)
            while True:
                effect = operation.send(self.perform(effect))
        except StopIteration as end:
            return end.value

    def perform(self, effect: Effect) -> Any:
        assert isinstance(effect, Send)
        replies = []
        for _, command in effect.requests:
            # scripts go whole, so that a node that knows none takes the same steps
            replies.append(self.node.call(getattr(command, "with_source", command)))
        return replies


class Reader:
    """``get_or_load`` of the row, one effect a move."""

    def __init__(self, name: str, world: World) -> None:
        self.world, self.clock = world, StepClock(name)
        self.told: list[Any] = []
        self.began_at: int | None = None
        self.operation: Operation[Any] | None = None
        self.effect: Effect | None = None
        self.is_done = False

    def moves(self) -> list[str]:
        return [] if self.is_done else ["step"]

    def make(self, _: str) -> None:
        if self.operation is None:
            self.began_at = self.world.acknowledged
            context = self.world.context(self.clock)
            self.operation = protocol.get_or_load(context, KEY, lambda: None, self.world.scenario.keep)
            self.effect = next(self.operation)
        outcome = self.perform()
        self.told.append((type(self.effect).__name__, repr(outcome), self.began_at))
        try:
            self.effect = self.operation.send(outcome)
        except StopIteration as end:
            self.finish(end.value)

    def perform(self) -> Any:
        match self.effect:
            case Load():
                return self.world.scenario.load(self)
            case Sleep():
                self.clock.waited += OPTIONS.lease_timeout
                return None
            case effect:
                assert effect is not None
                return self.world.perform(effect)

    def finish(self, value: int) -> None:
        self.is_done = True
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


class Writer:
    """Writes the row: commit, then the real delete; or the real quarantine around the commit."""

    #: In the order of ``invalidation.transactions``.
    order = ("commit", "delete", "acknowledge")
    may_crash = False
    #: The relay deletes what a crash left; a strict write needs none.
    is_owed = True

    def __init__(self, name: str, world: World) -> None:
        self.world, self.clock = world, StepClock(name)
        self.token = self.clock.token()
        self.told: list[Any] = []
        self.at = 0

    def moves(self) -> list[str]:
        if self.at >= len(self.order):
            return []
        return [self.order[self.at]] + (["crash"] if self.may_crash and self.at > 0 else [])

    def make(self, what: str) -> None:
        self.told.append(what)
        self.at = len(self.order) if what == "crash" else self.at + 1
        world, context = self.world, self.world.context(self.clock)
        match what:
            case "commit":
                world.committed += 1
                self.version = world.committed
                world.owed = self.is_owed
            case "delete":
                left = world.run(protocol.delete_many(context, [TAG if world.scenario.by_tag else KEY]))
                assert left == []
                world.owed = False
            case "soften":
                world.run(protocol.make_stale(context, KEY, 30_000))
                world.owed = False
            case "quarantine":
                world.run(protocol.quarantine(context, [KEY], self.token))
            case "unquarantine":
                assert world.run(protocol.unquarantine(context, [KEY], self.token)) == []
                world.owed = False
            case "acknowledge":
                world.owed = False
                world.acknowledged = max(world.acknowledged, self.version)


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
        accidents: How often each may happen: ``lapse``, ``evict``, ``flush``.
        keep: How readers keep what they load.
        by_tag: Writers delete the tag instead of the key.
    """

    actors: tuple[Callable[[str, World], Any], ...]
    before: tuple[tuple[Any, ...], ...] = ()
    accidents: tuple[tuple[str, int], ...] = ()
    keep: Keep = MINUTE
    by_tag: bool = False

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


def explore(node: Node, scenario: Scenario, *, stop_at_first: bool = False) -> Explored:
    """Run every schedule of a scenario; equal states are gone on from once."""
    explored, seen = Explored(), set()
    waiting: list[list[str]] = [[]]
    while waiting:
        schedule = waiting.pop()
        world = _played(node, scenario, schedule)
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


def _played(node: Node, scenario: Scenario, schedule: list[str]) -> World:
    world = World(node, scenario)
    for move in schedule:
        world.make(move)
    return world


def values(version: int, keep: Keep, *, fresh: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that make a loaded value stand, past its time already or fresh."""
    from cachebackend.codec import Refresh

    record = Codec("auto").encode(version, Refresh(NOW + 60 if fresh else NOW - 1, 0.1))
    yield (b"SET", KEY, record, b"PX", (keep.ttl_ms or 0) + keep.stale_ms)

"""The world of a schedule: two nodes, a database row, the processes and actors, and what may happen next.

The second node is the gutter, or the owner in the new ring while the ring is changed. Either node
may fail and return, with its old memory or empty. Each actor runs in its own process, or all run in
one. A process' breaker opens at the first command that the node does not answer. The real replay
sends the missed deletes that the process and the outbox recorded, and the breaker closes after the
real check for deletes that were missed during the replay. The relay may run between any two moves;
at the end it runs until no delete is pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cachebackend import protocol
from cachebackend.effects import Command, ScriptCall
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Node
from tests.interleavings.outbox import Outbox
from tests.interleavings.processes import NAMES, Process

if TYPE_CHECKING:
    from tests.interleavings.scenario import Scenario

__all__ = ["KEY", "TAG", "World"]

KEY, TAG = b"key", b"tag"
#: Times to live are rounded up to a multiple of this many milliseconds; every schedule is shorter.
TTL_STEP_MS = 10_000


class World:
    """Two nodes, one row whose version counts its commits, and the actors.

    Attributes:
        acknowledged: The last version that its writer acknowledged.
        settled: By node, the last version whose delete the node confirmed to the writer or the relay.
        remaining: By accident, how many times it may still happen.
    """

    def __init__(self, nodes: tuple[Node, Node], scenario: Scenario) -> None:
        self.nodes, self.scenario = nodes, scenario
        self.committed = self.acknowledged = 0
        self.settled = [0, 0]
        self.down: set[int] = set()
        #: The next request for a lease is held up by the network, and its caller gives it up.
        self.is_losing = False
        #: The requests that are held up; each arrives later.
        self.held_up: list[tuple[int, Command]] = []
        self.outbox: Any = Outbox(scenario.target)
        self.wrong: list[str] = []
        for node in nodes if scenario.has_two_nodes else nodes[:1]:
            node.call((b"DEL", KEY, TAG))
        for command in scenario.before:
            nodes[0].call(command)
        deploys = scenario.deploys or ("old",) * len(scenario.actors)
        self.processes = [
            self.process(f"{number}", deploy)
            for number, deploy in enumerate(deploys[:1] if scenario.is_one_process else deploys)
        ]
        self.actors = [
            make(f"{number}", self, self.processes[0 if scenario.is_one_process else number])
            for number, make in enumerate(scenario.actors)
        ]
        self.remaining = dict(scenario.accidents)
        self._contents: tuple[bytes | None, ...] | None = None

    def process(self, name: str, deploy: str) -> Process:
        """Return a new process."""
        return Process(self, name, deploy)

    def call(self, node: int, command: Command) -> Any:
        # Scripts are sent with their source, so that a node that has not cached them takes the same steps
        reply = self.nodes[node].call(command.with_source if isinstance(command, ScriptCall) else command)
        # Rounded, so that two schedules differ by their moves, and not by a millisecond
        return -(-reply // TTL_STEP_MS) * TTL_STEP_MS if command[0] == b"PTTL" and reply > 0 else reply

    def loses(self, node: int, command: Command) -> bool:
        """Return whether the network holds this command up: it may do so to the request for a lease."""
        if not self.is_losing or b"NX" not in command:
            return False
        self.is_losing = False
        self.held_up.append((node, command))
        return True

    def settle(self, version: int, nodes: Iterable[int]) -> None:
        """Record that nodes confirmed the deletes of all versions up to this one."""
        for node in nodes:
            self.settled[node] = max(self.settled[node], version)

    def moves(self) -> list[str]:
        """Return the moves that may happen next."""
        moves = [
            f"actor{number} {move}" for number, actor in enumerate(self.actors) for move in actor.moves()
        ]
        for number, process in enumerate(self.processes):
            if any(actor.process is process and not actor.is_done for actor in self.actors):
                moves += [f"process{number} {move}" for move in process.moves()]
        record = self.record()
        if self.remaining.get("lapse") and record[:1] == b"L":
            moves.append("accident lapse")
        if self.remaining.get("evict") and record and record[:1] != b"Q":
            moves.append("accident evict")
        if self.remaining.get("flush"):
            moves.append("accident flush")
        if self.remaining.get("lose") and not self.is_losing:
            moves.append("accident lose")
        if self.held_up:
            moves.append("accident arrive")
        for node in (0, 1):
            if node in self.down:
                moves += [f"accident return{node}", f"accident restart{node}"]
            elif self.remaining.get(f"fail{node}"):
                moves.append(f"accident fail{node}")
        if self.outbox.rows and (self.remaining.get("relay") or not moves):
            moves.append("relay settles")
        return moves

    def make(self, move: str) -> None:
        """Make one move of an actor, a process or the relay, or cause an accident."""
        self._contents = None
        mover, action = move.split()
        if mover == "accident":
            self._cause(action)
        elif mover == "relay":
            self.remaining["relay"] = max(0, self.remaining.get("relay", 0) - 1)
            self._relay()
        elif mover.startswith("process"):
            self.processes[int(mover[-1])].make(action)
        else:
            self.actors[int(mover[-1])].make(action)

    def _cause(self, accident: str) -> None:
        self.remaining[accident] = self.remaining.get(accident, 1) - 1
        node = int(accident[-1]) if accident[-1].isdigit() else 0
        if accident == "lose":
            self.is_losing = True
        elif accident == "arrive":
            self.call(*self.held_up.pop(0))
        elif accident.startswith("fail"):
            self.down.add(node)
        elif accident.startswith(("return", "restart")):
            self.down.discard(node)
        if accident.startswith(("flush", "restart")):
            self.nodes[node].call((b"FLUSHDB",))
        elif accident in {"lapse", "evict"}:
            self.nodes[0].call((b"DEL", KEY))

    def _relay(self) -> None:
        """Act on all rows in a new process; rows that a node did not confirm stay, and so do live intents."""
        process = Process(self, "relay", self.scenario.relay)
        alive = {actor.name for actor in self.actors if not actor.is_done}
        for kind, name in sorted(self.outbox.rows):
            if kind == "everything":
                position = process.order.index(NAMES.index(name))
                is_confirmed = process.run(protocol.clear_missed(process.context, b"*", [position]))
                nodes = [NAMES.index(name)]
            else:
                target = [self.scenario.target]
                is_confirmed = not process.run(protocol.delete_many(process.context, target, in_outbox=True))
                nodes = list(process.order)
            if is_confirmed:
                self.settle(self.acknowledged, nodes)
                if kind != "intent" or name not in alive:
                    self.outbox.rows.discard((kind, name))

    def record(self) -> bytes:
        """Return the record of the key on the first node; empty if there is none."""
        return self.contents()[0] or b""

    def contents(self) -> tuple[bytes | None, ...]:
        """Return the records of the key, the tag, and the key on the second node; read once for each move."""
        if self._contents is None:
            self._contents = tuple(self.nodes[0].call((b"MGET", KEY, TAG)))
            if self.scenario.has_two_nodes:
                self._contents += (self.nodes[1].call((b"GET", KEY)),)
        return self._contents

    def state(self) -> tuple[Any, ...]:
        histories = tuple(tuple(actor.history) for actor in self.actors)
        processes = tuple(process.state() for process in self.processes)
        versions = self.committed, self.acknowledged, tuple(self.settled), self.is_losing, tuple(self.held_up)
        remaining = tuple(sorted(self.remaining.items()))
        rows, down = frozenset(self.outbox.rows), frozenset(self.down)
        return self.contents(), histories, processes, versions, rows, down, remaining

    def check_end(self) -> None:
        """Record a mistake if a value from before the last commit could still be served at the end."""
        for deploy in self.scenario.deploys or ("old",):
            for is_open in (False, True) if self.scenario.has_gutter else (False,):
                process = Process(self, "end", deploy)
                if is_open:
                    process.breakers[0].failed(NodeUnavailableError("down"), at_once=True)
                value = process.run(protocol.get(process.context, KEY))
                if value is not None and value < self.committed:
                    self.wrong.append(f"version {value} is cached although {self.committed} is committed")

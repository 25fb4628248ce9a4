"""The world of a schedule: two nodes, a database row, the processes and actors, and what may happen next.

The second node is the gutter, or the owner in the ring that is entered while the ring is changed.
Either may fail and return, with its old memory or empty. Each actor is a process of its own, or all
are one: its breakers open at the first command that is not answered; what it noted and what the
outbox has is told to a node by the real replay, and the breaker closes by the real look at what was
noted meanwhile. The relay moves when it likes, and at last until nothing is owed.
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
#: Times to live are rounded up to a multiple of this; no schedule takes so long.
TTL_STEP_MS = 10_000


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
        self._held: tuple[bytes | None, ...] | None = None

    def call(self, node: int, command: Command) -> Any:
        # scripts go whole, so that a node that knows none takes the same steps
        reply = self.nodes[node].call(command.with_source if isinstance(command, ScriptCall) else command)
        # time stands still: two schedules differ by what happened, and not by a millisecond
        return -(-reply // TTL_STEP_MS) * TTL_STEP_MS if command[0] == b"PTTL" and reply > 0 else reply

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
        self._held = None
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
        return self.held()[0] or b""

    def held(self) -> tuple[bytes | None, ...]:
        """Return what the nodes hold: the key, the tag, and the key on the second node; read once a move."""
        if self._held is None:
            self._held = tuple(self.nodes[0].call((b"MGET", KEY, TAG)))
            if self.scenario.has_two_nodes:
                self._held += (self.nodes[1].call((b"GET", KEY)),)
        return self._held

    def state(self) -> tuple[Any, ...]:
        told = tuple(tuple(actor.told) for actor in self.actors)
        known = tuple(process.state() for process in self.processes)
        versions = self.committed, self.acknowledged, tuple(self.settled)
        left = tuple(sorted(self.left.items()))
        return self.held(), told, known, versions, frozenset(self.outbox.rows), frozenset(self.down), left

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

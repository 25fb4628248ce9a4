"""Steps the real operations of readers and writers against each other, in every order, on real nodes.

A schedule is a list of moves. Each is run from empty nodes, because a generator cannot be
wound back; states that were seen are not gone on from. A state is what stands on the nodes,
what the database holds, what each process knows, and all that each actor was told so far, which
decides what it does next: tokens are numbered, time stands still unless somebody waits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from cachebackend.node import Node
from tests.interleavings.scenario import Scenario
from tests.interleavings.world import World

__all__ = ["Explored", "explore"]


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

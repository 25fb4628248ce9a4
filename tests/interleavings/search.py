"""Steps the real operations of readers and writers against each other, in every order, on real nodes.

A schedule is a list of moves. Each schedule starts again with empty nodes, because a generator
cannot be rewound. A state that was seen before is not explored again. A state consists of the
records on the nodes, the versions in the database, what each process recorded, and the history of
each actor, which decides its next move: tokens are numbered, and time advances only when an actor
waits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest

from cachebackend.backend import fill_rules
from cachebackend.node import Node
from tests.interleavings.scenario import Scenario
from tests.interleavings.world import World

__all__ = ["Explored", "explore"]

#: The most moves of a schedule. All end after some dozens, unless an operation never does.
MAX_MOVES = 1000


@dataclass
class Explored:
    """The result of a scenario.

    Attributes:
        schedules: The number of schedules that ran to their end.
        states: The number of different states.
        wrong: The stale reads and stale records, each with the schedule that leads to it.
    """

    schedules: int = 0
    states: int = 0
    wrong: list[tuple[str, list[str]]] = field(default_factory=list)


def explore_all(nodes: tuple[Node, Node], name: str, scenario: Scenario) -> Explored:
    """Run every schedule of a scenario that must never be wrong, and print how many there were."""
    explored = explore(nodes, scenario)
    print(
        f"\n{name}: {explored.states} states, {explored.schedules} ends, {len(explored.wrong)} wrong", end=""
    )
    assert explored.wrong == []
    assert explored.schedules > 0
    assert explored.states > 50
    return explored


def explore(nodes: tuple[Node, Node], scenario: Scenario, *, stop_at_first: bool = False) -> Explored:
    """Run every schedule of a scenario; each state is explored once."""
    logger = logging.getLogger("cachebackend")  # nodes are ejected on purpose here
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with scenario.stepped_code(), pytest.MonkeyPatch.context() as patch:
            # Connections to SQLite, which other tests have left, would be asked in each fill
            patch.setattr(fill_rules, "any_may_keep_snapshot", lambda: False)
            return _explore(nodes, scenario, stop_at_first)
    finally:
        logger.setLevel(level)


def _explore(nodes: tuple[Node, Node], scenario: Scenario, stop_at_first: bool) -> Explored:
    explored, seen = Explored(), set()
    unexplored: list[list[str]] = [[]]
    while unexplored:
        schedule = unexplored.pop()
        world = _replayed(nodes, scenario, schedule)
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
            unexplored += [[*schedule, move] for move in moves[1:]]
            schedule = [*schedule, moves[0]]
            assert len(schedule) < MAX_MOVES, schedule[-20:]
            world.make(moves[0])
            moves = world.moves()
        if explored.wrong and stop_at_first:
            break
    explored.states = len(seen)
    return explored


def _replayed(nodes: tuple[Node, Node], scenario: Scenario, schedule: list[str]) -> World:
    """Return a new world in which the moves of a schedule have been made."""
    world = scenario.world(nodes)
    for move in schedule:
        world.make(move)
    return world

"""The reports of processes, on every node."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.protocol.telemetry.processes import (
    NodePresences,
    read_processes,
    report_process,
    withdraw_process,
)
from tests.unit.protocol.stepping import DOWN, step

SEEN, REPORTS = b"ringcache:{processes:site}:seen", b"ringcache:{processes:site}:reports"


def test_a_process_reports_to_each_node_with_the_name_that_it_has_for_it() -> None:
    """The keys depend on the site alone; the alias may have any characters."""
    _, [requests] = step(report_process("site", "my cache", {0: "a", 1: "b"}, "p1", b"{}"), [1, 1])
    assert requests == [
        (node, ("report_process", SEEN, REPORTS, b"20", b"4000", f"p1 my%20cache {name}", b"{}"))
        for node, name in enumerate("ab")
    ]


def test_a_process_that_ends_is_removed_from_each_node() -> None:
    """Its presence and its report."""
    _, [requests] = step(withdraw_process("site", "default", {0: "a"}, "p1"), [1, 1])
    assert requests == [(0, (b"ZREM", SEEN, "p1 default a")), (0, (b"HDEL", REPORTS, "p1"))]


def test_the_last_report_of_each_process_is_read_from_a_node_that_has_it() -> None:
    """With the age by the clock of each node.

    A presence that is old or in the future is left out, and so is a node that is down.
    """
    seen = [b"p1 my%20cache a", b"998500", b"p2 x a", b"970000", b"p3 x a", b"inf"]
    first: list[Any] = [[b"1000", b"500000"], seen, b"900000"]
    second: list[Any] = [[b"2000", b"0"], [b"p1 my%20cache b", b"1999000"], None]
    replies = [*first, *second, DOWN, DOWN, DOWN]
    (found, reports), rounds = step(read_processes("site", range(3)), replies, [b"report"])
    one, two, three = found
    assert isinstance(one, NodePresences)
    assert [(each.process, each.alias, each.name, each.age) for each in one.presences] == [
        ("p1", "my cache", "a", 2.0)
    ]
    assert (one.time, one.age) == (1000.5, 100.5)
    assert isinstance(two, NodePresences)
    assert (two.presences[0].age, two.age) == (1.0, None)
    assert three is DOWN
    assert reports == {"p1": (b"report", 1999.0)}
    assert rounds[1] == [(1, (b"HGET", REPORTS, "p1"))]


@pytest.mark.parametrize("member", [b"", b"p1", b"p1 alias", b"\xff"])
def test_a_member_of_another_form_is_left_out(member: bytes) -> None:
    """Another version may have written it."""
    (found, reports), _ = step(read_processes("site", [0]), [[b"1", b"0"], [member, b"1000"], b"x"])
    assert found == [NodePresences([], 1.0, None)]
    assert reports == {}

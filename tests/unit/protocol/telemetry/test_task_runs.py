"""When each periodic task last ran, by the clocks of the nodes that store it."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.protocol.telemetry.task_runs import read_run_ages, record_run
from tests.unit.protocol.stepping import DOWN, context_of, step

TIME = [b"1000", b"500000"]


def test_a_run_is_stored_on_both_nodes() -> None:
    """Each node adds the time of its own clock."""
    _, [requests] = step(record_run(context_of("a", "b"), b"k", "tick", 60), [1, 1])
    assert {node for node, _ in requests} == {0, 1}
    assert {command for _, command in requests} == {("record_run", b"k", "tick", b"60")}


@pytest.mark.parametrize(
    ("first", "second", "ages"),
    [
        ([TIME, [b"tick", b"999500"]], [[b"5000", b"0"], [b"tick", b"4998000"]], {"tick": 1.0}),
        ([TIME, [b"tick", b"900500"]], [[b"5000", b"0"], []], {"tick": 100.0}),
        ([TIME, [b"tick", b"1000600"]], [DOWN, DOWN], {"tick": 0.0}),
        ([TIME, [b"tick", b"4600500"]], [DOWN, DOWN], {}),
        ([TIME, [b"tick", b"-5", b"relay", b"x"]], [DOWN, DOWN], {}),
        ([[b"x", b"y"], [b"tick", b"999500"]], [DOWN, DOWN], {}),
        ([DOWN, DOWN], [DOWN, DOWN], DOWN),
    ],
)
def test_an_age_is_that_by_the_clock_of_its_node(first: list[Any], second: list[Any], ages: Any) -> None:
    """The shorter of two counts, and one node is enough.

    A time in the future of its node was stored before the node's clock was set back.
    """
    assert step(read_run_ages(context_of("a", "b"), b"k"), [*first, *second])[0] == ages

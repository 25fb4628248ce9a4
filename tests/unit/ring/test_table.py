from __future__ import annotations

from collections.abc import Callable

import pytest

from cachebackend.ring import SLOTS, Ring, slot_of

Weigh = Callable[[int], float]
EVEN: Weigh = lambda _: 1.0  # noqa: E731  # a parameter's value
UNEVEN: Weigh = lambda number: (0.5, 1.0, 2.0, 3.0)[number % 4]  # noqa: E731  # a parameter's value
SIZES = [3, 4, 7, 12, 25, 50]
#: A node that joins or leaves may move this many slots of other nodes, because of the cap.
SLACK = SLOTS // 100
OWNERS = "cbbbaabbabbbccca"
SLOT = 36942


def nodes_of(count: int, weigh: Weigh) -> list[tuple[str, float]]:
    return [(f"10.0.0.{number}:6379", weigh(number)) for number in range(count)]


@pytest.mark.parametrize("weigh", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("count", SIZES)
def test_no_node_owns_much_more_than_its_share(count: int, weigh: Weigh) -> None:
    """The busiest node owns at most 1.03 times its share of the slots."""
    ring = Ring(nodes_of(count, weigh))
    total = sum(ring.weights)
    loads = [
        slots / (SLOTS * weight / total) for slots, weight in zip(ring.shares(), ring.weights, strict=True)
    ]
    assert max(loads) <= 1.03
    assert sum(ring.shares()) == SLOTS


@pytest.mark.parametrize("weigh", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("count", SIZES)
def test_a_node_that_leaves_moves_its_own_slots_only(count: int, weigh: Weigh) -> None:
    """The cap moves at most one other slot in a hundred."""
    nodes = nodes_of(count, weigh)
    ring = Ring(nodes)
    for index in (0, count // 2):
        smaller = Ring(nodes[:index] + nodes[index + 1 :])
        assert 0 <= ring.moved(smaller) - ring.shares()[index] <= SLACK


@pytest.mark.parametrize("weigh", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("count", SIZES)
def test_a_node_that_joins_moves_only_slots_to_itself(count: int, weigh: Weigh) -> None:
    """The cap moves at most one other slot in a hundred."""
    nodes = nodes_of(count, weigh)
    ring, larger = Ring(nodes), Ring([*nodes, ("new", 1.0)])
    assert 0 <= ring.moved(larger) - larger.shares()[-1] <= SLACK


def test_the_order_of_the_nodes_does_not_matter() -> None:
    """Names and weights decide which node owns a slot."""
    nodes = nodes_of(5, UNEVEN)
    assert Ring(nodes).moved(Ring(nodes[::-1])) == 0


def test_owners_are_the_same_in_every_process_and_release() -> None:
    """The owners of a few slots are constants here: a change of them would move every user's keys."""
    ring = Ring([("a", 1.0), ("b", 2.0), ("c", 1.0)])
    assert "".join(ring.names[ring.owner_of_slot(slot)] for slot in range(0, SLOTS, 4096)) == OWNERS
    assert slot_of(b":1:product:12345") == SLOT


def test_one_node_owns_everything() -> None:
    """A ring may have one node."""
    assert Ring([("only", 1.0)]).shares() == [SLOTS]

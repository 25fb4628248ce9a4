"""The other ring while a ring changes, and the gutter."""

from __future__ import annotations

import pytest

from cachebackend.options import Faults, parse_nodes
from cachebackend.options.node_lists import read_node_lists

RING = "redis://h:1?name=a,redis://h:2?name=b"


def test_the_lists_that_are_given_are_parsed() -> None:
    """Lists that are left out keep their default."""
    nodes = parse_nodes(RING, Faults(""))
    found = read_node_lists(
        {"leaving": ["redis://h:1?name=a"], "gutter": ["redis://h:9?name=g"]}, nodes, None, Faults("")
    )
    assert {name: [node.name for node in each] for name, each in found.nodes.items()} == {
        "leaving": ["a"],
        "gutter": ["g"],
    }


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        (
            {"joining": ["redis://h:3?name=c"], "leaving": ["redis://h:1?name=a"]},
            "['leaving']: cannot be set together with 'joining'",
        ),
        ({"joining": RING}, "['joining']: has the same nodes as LOCATION"),
        ({"joining": "redis://h:1?name=z"}, "['joining']: has as 'z' the server that LOCATION has as 'a'"),
        ({"gutter": "redis://h:2?name=g"}, "['gutter']: 'g' is a node of the ring"),
        ({"gutter": "redis://h:9?name=b"}, "['gutter']: 'b' is a node of the ring"),
    ],
)
def test_lists_that_contradict_each_other_are_faults(lists: dict[str, object], says: str) -> None:
    """The message names the list."""
    faults = Faults("OPTIONS")
    read_node_lists(lists, parse_nodes(RING, faults), None, faults)
    [fault] = faults.messages
    assert says in fault

"""Deleting the keys of a whole queue."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.rounds import node_failure
from cachebackend.writebehind.erasure import delete_keys, erase_queue


class Node:
    """A node that answers a script of replies."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.commands: list[tuple[bytes, ...]] = []

    def call(self, command: tuple[bytes, ...]) -> Any:
        self.commands.append(command)
        return self.replies.pop(0)


class Client:
    """A client of some nodes."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.servers = lambda: {str(index): [index] for index in range(len(nodes))}
        self.options = type("Options", (), {"prefix": "wb+test"})
        self.fail_node = node_failure


def test_all_keys_of_the_prefix_are_deleted() -> None:
    """Page by page; the incarnations of the partitions are returned."""
    away = Node(NodeUnavailableError())
    node = Node((b"7", [b"wb+test:{a:0}:meta", b"wb+test:{a:0}:1"]), b"born-1", 2, (b"0", []))
    assert delete_keys(Client(away, node)) == ["born-1"]  # type: ignore[arg-type]  # stand-ins
    assert [command[0] for command in node.commands] == [b"SCAN", b"HGET", b"DEL", b"SCAN"]
    assert node.commands[0][3] == b"wb+test:*"
    assert node.commands[3][1] == b"7"


@pytest.mark.parametrize("setting", [{}, {"nodes": 5}])
def test_without_a_queue_nothing_is_done(setting: dict[str, Any]) -> None:
    """The setting is empty or has faults, which the checks report."""
    with override_settings(WRITE_BEHIND=setting):
        erase_queue()

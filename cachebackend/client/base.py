"""The base of every client: its nodes, and how an operation runs on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar
from weakref import WeakSet

from cachebackend.drivers import FailedNodes, adrive, drive
from cachebackend.effects import Operation
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Node

__all__ = ["CLIENTS", "Client"]

T = TypeVar("T")


class Client:
    """Nodes, and how an operation runs on them.

    Args:
        nodes: The nodes. A cluster may add nodes to them.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    def run(self, operation: Operation[T], failed: FailedNodes | None = None) -> T:
        """Run an operation in the calling thread, without the nodes that have failed in it already."""
        return drive(operation, self.nodes, failed)

    async def arun(self, operation: Operation[T]) -> T:
        """Run an operation in the running event loop."""
        return await adrive(operation, self.nodes)

    def fail_node(self, node: int, reason: str) -> NodeUnavailableError:
        """Record that a node has failed, by its index; return the error."""
        return self.nodes[node].fail(reason)

    def close(self) -> None:
        """Close the idle connections; the client can still be used."""
        for node in self.nodes:
            node.close()

    def after_fork(self) -> None:
        """Release the parent's locks and threads in a forked child."""


#: The clients of this process. Each adds itself at the end of its constructor.
CLIENTS: WeakSet[Client] = WeakSet()


def _after_fork() -> None:
    for client in CLIENTS:
        client.after_fork()


os.register_at_fork(after_in_child=_after_fork)

"""The base of every client: its nodes, and how an operation runs on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, TypeVar
from weakref import WeakSet

from cachebackend.drivers import FailedNodes, NodePort, adrive, drive
from cachebackend.effects import Operation
from cachebackend.errors import NodeUnavailableError

__all__ = ["CLIENTS", "Client", "ClientNode"]

T = TypeVar("T")


class ClientNode(NodePort, Protocol):
    """The part of a node that every client uses."""

    def fail(self, reason: str) -> NodeUnavailableError:
        """Record that the node has failed although it answers; return our error."""
        ...

    def close(self) -> None:
        """Close the idle connections; the node can still be used."""
        ...


class Client:
    """Nodes, and how an operation runs on them.

    Args:
        nodes: The nodes. A cluster may add nodes to them.
    """

    def __init__(self, nodes: Sequence[ClientNode]) -> None:
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

"""A client of nodes, and the clients of a process."""

from __future__ import annotations

import gc

from cachebackend.client import base
from cachebackend.client.base import CLIENTS, Client
from cachebackend.node import Node
from cachebackend.options import NodeAddress


def test_a_client_has_a_node_for_each_address() -> None:
    """In their order; none of them is connected yet."""
    addresses = [NodeAddress(name, 1.0, f"redis://unused-{name}") for name in "ab"]
    client = Client([Node(address, 0.1, 0.1) for address in addresses])
    assert [node.address for node in client.nodes] == addresses
    client.close()


def test_a_forked_child_resets_the_clients_that_are_still_used() -> None:
    """A client that was garbage-collected is forgotten."""

    class Counted(Client):
        resets = 0

        def after_fork(self) -> None:
            Counted.resets += 1

    kept, dropped = (Counted([]) for _ in range(2))
    CLIENTS.add(kept)
    CLIENTS.add(dropped)
    del dropped
    gc.collect()
    base._after_fork()
    assert Counted.resets == 1
    CLIENTS.discard(kept)

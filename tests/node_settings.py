"""Settings of servers that a test changes, and that are as before when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cachebackend.node import Node
from cacheproject.cluster import Cluster

__all__ = ["cluster_settings", "node_settings"]


@contextmanager
def _changed(call: Callable[[tuple[bytes, ...]], Any], settings: dict[str, str]) -> Iterator[None]:
    """Change settings of the server that answers a call; restore what it had, at the end of the block."""
    given = {name.replace("_", "-").encode(): value.encode() for name, value in settings.items()}
    found = call((b"CONFIG", b"GET", *given))
    before = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    assert before.keys() == given.keys(), "the server does not have these settings"
    _set(call, given)
    try:
        yield
    finally:
        _set(call, before)


def _set(call: Callable[[tuple[bytes, ...]], Any], settings: dict[bytes, bytes]) -> None:
    call((b"CONFIG", b"SET", *(word for setting in settings.items() for word in setting)))


@contextmanager
def node_settings(node: Node, **settings: str) -> Iterator[None]:
    """Change settings of a node for a block.

    Args:
        node: The node.
        settings: The values, by the names of the settings, with underscores for hyphens.
    """
    with _changed(node.call, settings):
        yield


@contextmanager
def cluster_settings(cluster: Cluster, **settings: str) -> Iterator[None]:
    """Change settings of all servers of a cluster for a block.

    Args:
        cluster: The cluster. A server that leaves it in the block, or joins it, is left out.
        settings: As in ``node_settings``.
    """
    with ExitStack() as stack:
        for name in cluster.names:

            def call(words: tuple[bytes, ...], name: str = name) -> Any:
                return cluster.ask(name, *words)

            stack.enter_context(_changed(call, settings))
        yield

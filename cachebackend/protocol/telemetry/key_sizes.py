"""The memory of keys that a node chooses at random."""

from __future__ import annotations

from cachebackend.effects import Operation, Send
from cachebackend.protocol.context import Context

__all__ = ["random_key_sizes"]


def random_key_sizes(context: Context, node: int, count: int) -> Operation[dict[bytes, int]]:
    """Return the bytes that some random keys of a node take, in two round trips.

    Args:
        context: The alias.
        node: The node's index.
        count: How many keys the node is asked for; it may choose one several times.

    Returns:
        Nothing if the node does not answer. A key that is gone by then is left out.
    """
    replies = yield Send([(node, (b"RANDOMKEY",))] * count)
    keys = list(dict.fromkeys(key for key in replies if isinstance(key, bytes)))
    if not keys:
        return {}
    sizes = yield Send([(node, (b"MEMORY", b"USAGE", key)) for key in keys])
    return {key: size for key, size in zip(keys, sizes, strict=True) if isinstance(size, int)}

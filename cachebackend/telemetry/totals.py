"""Reads totals, each stored on two nodes, and gives a copy back what it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend import protocol
from cachebackend.client import QueueClient, RingClient
from cachebackend.effects import Reply
from cachebackend.protocol import Lags

__all__ = ["read_total"]

#: What the last read of each total by this process found lower in one copy, by key.
_lags: dict[bytes, Lags] = {}


def read_total(client: RingClient | QueueClient, key: bytes, keep_seconds: int) -> Sequence[Reply]:
    """Return the reply of each copy of a total, or the error of its node; raise a copy that is lower.

    Args:
        client: The client of the nodes.
        key: The key of the hash.
        keep_seconds: Seconds for which a copy that is raised is kept.
    """
    replies, _lags[key] = client.run(
        protocol.read_total(client.context, key, _lags.get(key, {}), keep_seconds)
    )
    return replies

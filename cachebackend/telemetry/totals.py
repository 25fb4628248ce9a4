"""Reads totals, each stored on two nodes, and gives a copy back what it lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.client.queue import QueueClient
from cachebackend.counters import CountGroup
from cachebackend.effects import Reply
from cachebackend.errors import RingCacheError
from cachebackend.protocol.telemetry import Lags

__all__ = ["Total", "read_copies", "read_counts"]

C = TypeVar("C", bound=CountGroup)
#: What the last read of each total by this process found lower in one copy, by key.
_lags: dict[bytes, Lags] = {}
#: What this process read of each total when both copies answered, by key.
_complete: dict[bytes, Mapping[str, int]] = {}


class Total(NamedTuple, Generic[C]):
    """What all processes have counted.

    Attributes:
        counts: The counts.
        missing: The names of the nodes that could not be read: more may have been counted.
    """

    counts: C
    missing: Sequence[str] = ()


def read_copies(client: RingClient | QueueClient, key: bytes, keep_seconds: int) -> Sequence[Reply]:
    """Return the reply of each copy of a total, or the error of its node; raise a copy that is lower.

    Args:
        client: The client of the nodes.
        key: The key of the hash.
        keep_seconds: Seconds for which a copy that is raised is kept.
    """
    replies, _lags[key] = client.run(
        protocol.telemetry.read_total(client.context, key, _lags.get(key, {}), keep_seconds)
    )
    return replies


def read_counts(client: RingClient | QueueClient, key: bytes, keep_seconds: int, kind: type[C]) -> Total[C]:
    """Return a total, as ``read_copies``. It does not fall while a node is away.

    Raises:
        RingCacheError: No node that stores it answered.
    """
    replies = read_copies(client, key, keep_seconds)
    nodes = protocol.telemetry.nodes_of(client.context, key)
    stored = protocol.telemetry.stored_counts(dict(zip(nodes, replies, strict=True)))
    if isinstance(stored, RingCacheError):
        raise stored
    counts, missing = stored
    if missing:
        known = _complete.get(key, {})
        counts = {name: max(counts.get(name, 0), known.get(name, 0)) for name in {*counts, *known}}
    else:
        _complete[key] = counts
    return Total(kind.from_dict(counts), tuple(client.nodes[node].name for node in missing))

"""Where the writes of a model's rows are queued: partitions, their keys, and the nodes they are on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cachebackend.clock import Clock
from cachebackend.effects import Reply
from cachebackend.errors import RingCacheError
from cachebackend.options import WriteBehindOptions
from cachebackend.ring import Ring

__all__ = ["DIRTY", "Partition", "QueueContext", "checked"]

#: Each node's sorted set of partitions that hold writes, by the time of the oldest.
DIRTY = b"wb:dirty"
_NAME = re.compile(r"([\w.]+):([0-9]{1,4})")


@dataclass(frozen=True)
class Partition:
    """One of the parts that a model's rows are queued in.

    Attributes:
        label: The model, as ``app_label.model_name``.
        number: From 0.
    """

    label: str
    number: int

    @cached_property
    def name(self) -> bytes:
        """What the partition is called on its node, and what decides which node that is."""
        return f"{self.label}:{self.number}".encode()

    @classmethod
    def named(cls, name: bytes) -> Partition | None:
        """Return the partition that a node calls by this name; None if it is no such name."""
        parts = _NAME.fullmatch(name.decode(errors="replace"))
        return cls(parts[1], int(parts[2])) if parts else None

    @cached_property
    def meta(self) -> bytes:
        """The key of the hash that holds ``born``, ``open`` and ``done``."""
        return b"wb:{%b}:meta" % self.name

    def batch(self, number: int) -> bytes:
        """Return the key of a batch's hash."""
        return _batch(self.name, number)

    def __str__(self) -> str:
        return f"{self.label}:{self.number}"


@lru_cache(4096)  # each write names two of them, mostly the same
def _batch(partition: bytes, number: int) -> bytes:
    return b"wb:{%b}:%d" % (partition, number)


class QueueContext:
    """What the operations of the queue need: its nodes, its limits, and time.

    Args:
        options: The project's settings.
        ring: The ring of the nodes that take writes. Nodes that take none any more have the
            indices after these.
        clock: Where time and tokens come from.

    Attributes:
        nodes: The indices of all nodes.
        opened: The number last known to be open, by node and the partition's name; a wrong one
            costs a round trip.
    """

    def __init__(self, options: WriteBehindOptions, ring: Ring, clock: Clock) -> None:
        self.options = options
        self.ring = ring
        self.clock = clock
        self.opened: dict[tuple[int, bytes], int] = {}
        names = [node.name for node in options.all_nodes]
        self.nodes = range(len(names))
        self._retiring = [names.index(node.name) for node in options.retiring]
        #: Fields that a batch holds when it is sealed.
        self.batch_fields = options.batch_rows
        #: Fields that a partition's batches hold together when it takes no more.
        self.most_fields = max(options.high_water // options.partitions, 1)

    def places(self, partition: Partition) -> list[int]:
        """Return the nodes that may hold a partition's writes: those being retired first, its owner last."""
        owner = self.ring.owner(partition.name)
        return [*(node for node in self._retiring if node != owner), owner]

    def now_ms(self) -> int:
        """Return the wall time in milliseconds."""
        return int(self.clock.now() * 1000)


def checked(reply: Reply) -> Reply:
    """Return a reply; a queue takes no failure for an answer."""
    if isinstance(reply, RingCacheError):
        raise reply
    return reply

"""Partitions of the write-behind queue, their keys, and the nodes that hold them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cachebackend.clock import Clock
from cachebackend.effects import Reply
from cachebackend.errors import RingCacheError, WriteBehindDamagedError, WriteBehindMovedError
from cachebackend.options import WriteBehindOptions
from cachebackend.properties import cached_property
from cachebackend.protocol.rounds import FailNode, node_failure
from cachebackend.ring import Ring

__all__ = ["Partition", "QueueContext", "checked"]

#: The number of open batches whose keys are remembered.
_MAX_FOLD_KEYS = 4096
_PARTITIONS = re.compile(rb"-?[1-9][0-9]{0,3}")
_NAME = re.compile(r"([\w.]+):([0-9]{1,4})")


@dataclass(frozen=True)
class Partition:
    """One of the parts in which a model's rows are queued.

    Attributes:
        label: The model, as ``app_label.model_name``.
        number: The partition's number, from 0.
        count: The number of partitions from which a row's partition was chosen; 0: not for a row.
    """

    label: str
    number: int
    count: int = field(default=0, compare=False)

    @cached_property
    def name(self) -> bytes:
        """The partition's name on its node, as bytes; the ring hashes it to find that node."""
        return f"{self.label}:{self.number}".encode()

    @classmethod
    def parse(cls, name: bytes) -> Partition | None:
        """Return the partition of a name that a node returned; None if the name is not valid."""
        parts = _NAME.fullmatch(name.decode(errors="replace"))
        return cls(parts[1], int(parts[2])) if parts else None

    def __str__(self) -> str:
        return f"{self.label}:{self.number}"


@lru_cache(4096)
def _key(prefix: bytes, partition: bytes, name: str | int) -> bytes:
    return b"%b:{%b}:%b" % (prefix, partition, str(name).encode())


class QueueContext:
    """What the operations of the queue need: its nodes, its limits, and time.

    Args:
        options: The project's settings.
        ring: The ring of the nodes that take writes. Nodes that are being retired have the
            indices after these.
        clock: The source of time and of tokens.

    On a cluster a node is a part of the queue. All keys of a part have its name as their hash tag, so they
    are in one slot: a script may use several of them, and they move together.

    Attributes:
        nodes: The indices of all nodes.
        dirty_keys: By node the key of the sorted set of its partitions with queued writes, scored by the time
            of the oldest write.
        count_keys: By node the key of its number of partitions. It is negative while the number is
            being changed, and the node begins no batch.
        partitions: The number of partitions as last seen.
        open_batches: The number of the open batch as last seen, by node and partition name. A
            number that is out of date costs one round trip.
    """

    def __init__(self, options: WriteBehindOptions, ring: Ring, clock: Clock) -> None:
        self.options = options
        self.ring = ring
        self.clock = clock
        self._fold_keys: dict[tuple[bytes, int], tuple[bytes, ...]] = {}
        self.open_batches: dict[tuple[int, bytes], int] = {}
        names = [node.name for node in options.all_nodes]
        self.nodes = range(len(names))
        prefix = options.prefix.encode()
        parts = [] if options.cluster is None else [node.name.encode() for node in options.active_nodes]
        #: The beginning of the keys of each node.
        self._prefixes = [
            *(b"%b:{%b}" % (prefix, part) for part in parts),
            *[prefix] * (len(names) - len(parts)),
        ]
        self.dirty_keys = [b"%b:dirty" % each for each in self._prefixes]
        self.count_keys = [b"%b:partitions" % each for each in self._prefixes]
        self._retiring = [names.index(node.name) for node in options.retiring]
        retiring = [(node.name, node.weight) for node in options.retiring]
        self._old_ring = Ring(retiring) if retiring else ring
        self._limits: dict[tuple[bytes, int], bytes] = {}
        self.partitions = options.partitions
        #: Records that a node has failed although it answers.
        self.fail_node: FailNode = node_failure

    def moved(self, text: bytes) -> RingCacheError:
        """Use a node's number of partitions from now on; return the error of a write that used another.

        Args:
            text: The number as the node stores it.
        """
        count = self.parse_count(text)
        if count is None:
            return WriteBehindDamagedError(f"{text[:40]!r} is not a number of partitions")
        self.adopt(count)
        if count < 0:
            message = "the number of partitions is being changed, so the write is not taken; try again soon"
            return WriteBehindMovedError(message, is_closed=True)
        return WriteBehindMovedError(f"the queue has {count} partitions by now", is_closed=False)

    def adopt(self, count: int) -> None:
        """Use a node's number of partitions from now on."""
        self.partitions = abs(count)

    def limits(self, partition: Partition) -> bytes:
        """Return a partition's limits, the number of partitions and its name, as an argument of a fold."""
        count = partition.count or self.partitions
        limits = self._limits.get((partition.name, count))
        if limits is None:
            options = self.options
            max_fields, max_bytes = options.high_water // count, options.high_water_bytes // count
            limits = b"%d %d %d %d %d %b" % (
                options.batch_rows,
                max(max_fields, 1),
                options.batch_bytes,
                max(max_bytes, 1),
                count,
                partition.name,
            )
            self._limits[partition.name, count] = limits
        return limits

    @staticmethod
    def parse_count(text: bytes) -> int | None:
        """Return the number of partitions that a node stores; None if it is damaged."""
        return int(text) if _PARTITIONS.fullmatch(text) else None

    def meta(self, partition: Partition, node: int | None = None) -> bytes:
        """Return the key of the hash that holds ``born`` (the incarnation), ``open`` and ``done``.

        Args:
            partition: The partition.
            node: The node that has the key; None: the owner of the partition.
        """
        return _key(self._prefix_of(partition, node), partition.name, "meta")

    def batch(self, partition: Partition, number: int, node: int | None = None) -> bytes:
        """Return the key of a batch's hash on a node, as ``meta``."""
        return _key(self._prefix_of(partition, node), partition.name, number)

    def _prefix_of(self, partition: Partition, node: int | None) -> bytes:
        return self._prefixes[self.ring.owner(partition.name) if node is None else node]

    def fold_keys(self, partition: Partition, open_batch: int) -> tuple[bytes, ...]:
        """Return the keys of ``fold.lua``; each write needs them, and they are nearly always the same."""
        keys = self._fold_keys.get((partition.name, open_batch))
        if keys is None:
            node = self.ring.owner(partition.name)
            if len(self._fold_keys) >= _MAX_FOLD_KEYS:
                self._fold_keys.clear()
            keys = self._fold_keys[partition.name, open_batch] = (
                self.meta(partition),
                self.batch(partition, open_batch),
                self.batch(partition, open_batch + 1),
                self.dirty_keys[node],
                self.count_keys[node],
            )
        return keys

    def request(self, partition: Partition) -> bytes:
        """Return the key that exists while a drain is requested and has not begun."""
        return _key(self._prefix_of(partition, None), partition.name, "request")

    def nodes_of(self, partition: Partition) -> list[int]:
        """Return the nodes that may hold a partition's writes: those being retired first, its owner last."""
        owner = self.ring.owner(partition.name)
        return [*(node for node in self._retiring if node != owner), owner]

    def holders(self, partition: Partition) -> Sequence[int]:
        """Return the nodes that may hold a partition's queue, also if the settings did not name them so.

        Plain nodes may have been exchanged without ``retiring``. On a cluster a partition keeps its part.
        """
        return self.nodes if self.options.cluster is None else self.nodes_of(partition)

    def required_nodes(self, partition: Partition) -> set[int]:
        """Return those of ``nodes_of`` without which a partition can be neither drained nor read.

        They are its owner, and its owner before, in the ring of the nodes that are being retired. A
        checkpoint shows a queue on another node. In memory a queue may have none, so then all are required.
        """
        nodes = self.nodes_of(partition)
        if not self._retiring or self.options.durability == "memory":
            return set(nodes)
        return {nodes[-1], self._retiring[self._old_ring.owner(partition.name)]}

    def now_ms(self) -> int:
        """Return the wall-clock time in milliseconds since 1970."""
        return int(self.clock.now() * 1000)


def checked(reply: Reply) -> Reply:
    """Return a reply; raise it if it is an error. No operation of the queue may ignore one."""
    if isinstance(reply, RingCacheError):
        raise reply
    return reply

"""The options of write-behind, project wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachebackend.options.faults import Choice, Faults, Number, Whole, check_fields
from cachebackend.options.url import NodeAddress, parse_nodes

__all__ = ["WriteBehindOptions"]

_SECONDS = Number(0, above=True, unit=" seconds")
_POLICY = Choice(("raise", "write_through"))


@dataclass(frozen=True, slots=True)
class WriteBehindOptions:
    """What ``WRITE_BEHIND`` says; times in seconds.

    Attributes:
        nodes: The queue nodes. None: write-behind is off.
        partitions: In how many parts each model's rows are queued and drained. A part
            is drained by one worker at a time.
        flush_interval: How often queued writes are drained.
        batch_rows: The most rows that one statement of a drain handles. A batch is sealed
            when it holds so many; a row counts once for each of its columns.
        high_water: How much may wait for each model, counted as for ``batch_rows`` and
            shared evenly by its partitions.
        durability: What an acknowledgement means: the queue node has the write in
            ``"memory"``, will have it on its disk within a second (``"everysec"``), or has
            it there (``"fsync"``).
        on_full: What a write gets that finds its partition full: an error (``"raise"``), or
            it goes to the database at once (``"write_through"``) if it may overtake the rest.
        on_unavailable: The same when the queue node does not answer.
        retiring: Nodes that held queues before ``nodes`` was changed, the same or others.
            Their batches land before those of ``nodes``.
        connect_timeout: How long a connection may take to stand.
        socket_timeout: How long a queue node may take to answer.
    """

    nodes: tuple[NodeAddress, ...] = ()
    partitions: int = field(default=8, metadata={"rule": Whole(1, 1024)})
    flush_interval: float = field(default=1.0, metadata={"rule": _SECONDS})
    batch_rows: int = field(default=10_000, metadata={"rule": Whole(1, 1_000_000)})
    high_water: int = field(default=1_000_000, metadata={"rule": Whole(1, 2**31)})
    durability: str = field(default="everysec", metadata={"rule": Choice(("memory", "everysec", "fsync"))})
    on_full: str = field(default="raise", metadata={"rule": _POLICY})
    on_unavailable: str = field(default="raise", metadata={"rule": _POLICY})
    retiring: tuple[NodeAddress, ...] = ()
    connect_timeout: float = field(default=0.25, metadata={"rule": _SECONDS})
    socket_timeout: float = field(default=1.0, metadata={"rule": _SECONDS})

    @classmethod
    def read(cls, given: object) -> WriteBehindOptions:
        """Validate the ``WRITE_BEHIND`` setting whole.

        Raises:
            ConfigurationError: With every fault found.
        """
        faults = Faults("WRITE_BEHIND")
        if not isinstance(given, Mapping):
            faults.add(None, f"must be a dict, got a {type(given).__name__}")
            faults.raise_any()
            return cls()
        rest: dict[str, Any] = {k: v for k, v in given.items() if k not in {"nodes", "retiring"}}
        nodes = parse_nodes(given.get("nodes", ()), faults.at("nodes"))
        retiring = parse_nodes(given.get("retiring", ()), faults.at("retiring"))
        if retiring and not nodes:
            faults.add("retiring", "there are no nodes to take their place; name them in 'nodes'")
        check_fields(cls, rest, faults, others=("nodes", "retiring"))
        faults.raise_any()
        return cls(nodes=nodes, retiring=retiring, **rest)

    @property
    def all_nodes(self) -> tuple[NodeAddress, ...]:
        """The nodes, and after them those being retired that are not among them."""
        names = {node.name for node in self.nodes}
        return self.nodes + tuple(node for node in self.retiring if node.name not in names)

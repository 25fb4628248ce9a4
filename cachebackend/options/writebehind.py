"""The options of write-behind, project wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cachebackend.options.faults import Faults, Number, Whole, check_fields
from cachebackend.options.url import NodeAddress, parse_nodes

__all__ = ["WriteBehindOptions"]

_SECONDS = Number(0, above=True, unit=" seconds")


@dataclass(frozen=True, slots=True)
class WriteBehindOptions:
    """What ``WRITE_BEHIND`` says; times in seconds.

    Attributes:
        nodes: The queue nodes. None: write-behind is off.
        partitions: In how many parts each model's rows are queued and drained. A part
            is drained by one worker at a time.
        flush_interval: How often queued writes are drained.
        batch_rows: The most rows that one statement of a drain handles.
        connect_timeout: How long a connection may take to stand.
        socket_timeout: How long a queue node may take to answer.
    """

    nodes: tuple[NodeAddress, ...] = ()
    partitions: int = field(default=8, metadata={"rule": Whole(1, 1024)})
    flush_interval: float = field(default=1.0, metadata={"rule": _SECONDS})
    batch_rows: int = field(default=10_000, metadata={"rule": Whole(1, 1_000_000)})
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
        rest: dict[str, Any] = {k: v for k, v in given.items() if k != "nodes"}
        nodes = parse_nodes(given.get("nodes", ()), faults.at("nodes"))
        check_fields(cls, rest, faults)
        faults.raise_any()
        return cls(nodes=nodes, **rest)

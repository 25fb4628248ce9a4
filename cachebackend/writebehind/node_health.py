"""Whether a queue node can take writes, according to its INFO: its memory, and its files on disk.

The node answers while it refuses writes, so it is up, and nothing but these fields says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cachebackend.protocol.telemetry import number_of

__all__ = ["NodeHealth"]

#: The share of its memory above which a node is nearly full.
NEARLY_FULL = 0.9
_MEGABYTE = 1024**2
_LOG = "its log says why, such as a full disk"


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """A queue node's memory and files. A figure that the node does not report is None.

    Attributes:
        used_bytes: The memory that counts against the limit.
        max_bytes: The limit; 0: there is none.
        aof_status: Whether the last write to the append-only file succeeded: ``ok`` or ``err``; ``off``
            without such a file.
        save_status: Whether the last snapshot succeeded: ``ok`` or ``err``.
        rewrite_status: Whether the last rewrite of the append-only file succeeded: ``ok`` or ``err``.
        uptime_seconds: For how long the node has run.
        is_loading: Whether the node loads its file, and so takes no commands.
    """

    used_bytes: int | None = None
    max_bytes: int | None = None
    aof_status: str | None = None
    save_status: str | None = None
    rewrite_status: str | None = None
    uptime_seconds: int | None = None
    is_loading: bool = False

    @classmethod
    def of(cls, info: Mapping[str, str]) -> NodeHealth:
        """Return the health of a node, from its INFO."""
        used = number_of(info, "used_memory")
        # Redis subtracts buffers before it compares; they are what replicas and the append-only file need
        buffers = number_of(info, "mem_not_counted_for_evict") or 0
        return cls(
            None if used is None else max(used - buffers, 0),
            number_of(info, "maxmemory"),
            "off" if info.get("aof_enabled") == "0" else info.get("aof_last_write_status"),
            info.get("rdb_last_bgsave_status"),
            info.get("aof_last_bgrewrite_status"),
            number_of(info, "uptime_in_seconds"),
            info.get("loading") == "1",
        )

    @property
    def memory_share(self) -> float | None:
        """How much of its limit the node uses, 0 to 1; None if it has none, or if that is not known."""
        if self.used_bytes is None or not self.max_bytes:
            return None
        return self.used_bytes / self.max_bytes

    @property
    def memory_fault(self) -> str | None:
        """Return that the node is full, or nearly; None if it is not."""
        if self.memory_share is None or self.memory_share < NEARLY_FULL:
            return None
        used, limit = (self.used_bytes or 0) / _MEGABYTE, (self.max_bytes or 0) / _MEGABYTE
        memory = f"{used:,.1f} of {limit:,.1f} MB (maxmemory)"
        if self.memory_share >= 1:
            return f"is full, so it refuses writes: it uses {memory}"
        return f"is nearly full: it uses {memory}, and refuses writes when that is all"

    @property
    def disk_faults(self) -> list[str]:
        """Why the node's files are not on its disk."""
        faults = []
        if self.is_loading:
            faults.append("loads its file, and takes no commands until it has")
        if self.aof_status == "err":
            aof = "cannot write its append-only file (aof_last_write_status is err)"
            faults.append(f"refuses writes: it {aof}; {_LOG}")
        if self.save_status == "err":
            save = "could not save its last snapshot (rdb_last_bgsave_status is err)"
            until = "until it can it refuses writes, unless stop-writes-on-bgsave-error is set to no"
            faults.append(f"{save}; {until}; {_LOG}")
        if self.rewrite_status == "err":
            rewrite = "could not rewrite its append-only file (aof_last_bgrewrite_status is err)"
            faults.append(f"{rewrite}, so the file grows; {_LOG}")
        return faults

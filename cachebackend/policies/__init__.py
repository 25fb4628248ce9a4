"""Which entry of a bounded memory gives way to another: eviction policies, as plain mappings.

A policy keeps at most so many entries and decides alone which. It knows nothing of time,
nodes or threads. ``s3fifo`` finds more than ``lru`` where many keys are asked for once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachebackend.policies.lru import LRU
from cachebackend.policies.s3fifo import S3FIFO

__all__ = ["LRU", "POLICIES", "S3FIFO"]

#: The policies by the names that settings have for them; each takes the most entries.
POLICIES: dict[str, Callable[[int], Any]] = {"lru": LRU, "s3fifo": S3FIFO}

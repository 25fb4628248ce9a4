"""What the settings do with a write that was not queued: write it through, drop it, or raise.

Only changes of ``counters`` are dropped, and only with ``on_unavailable="drop"``: a page that counts
its views can do without the count, and cannot wait or fail. What is dropped is counted, and logged at
most once a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.errors import NodeUnavailableError
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.queue import project_queue
from cachebackend.writebehind.write_through import is_written_through

__all__ = ["fall_back"]

logger = logging.getLogger("cachebackend")
_dropped_log = LogRateLimit(SYSTEM_CLOCK)


def fall_back(rows: Rows, error: Exception, pk: Any, changes: Mapping[str, Any]) -> bool:
    """Write through or drop a write that was not queued, if the settings allow it.

    Args:
        rows: The rows of the model.
        error: Why the write was not queued.
        pk: The row's primary key.
        changes: The changes, as they were given.

    Returns:
        Whether the write was written through or dropped; if not, the caller raises the error.

    Raises:
        WriteBehindError, NodeUnavailableError: As ``is_written_through``.
    """
    return is_written_through(rows, error, pk, changes) or _is_dropped(rows, error, changes)


def _is_dropped(rows: Rows, error: Exception, changes: Mapping[str, Any]) -> bool:
    client = project_queue()
    is_asked_for = client.options.on_unavailable == "drop" and isinstance(error, NodeUnavailableError)
    if not is_asked_for or not rows.are_counters(changes):
        return False
    client.counters.cell.dropped += 1
    if count := _dropped_log.to_log():
        extra = {"event": "writes_dropped", "count": count, "error": str(error)}
        logger.error("write-behind: dropped %d writes of counters: %s", count, error, extra=extra)
    return True

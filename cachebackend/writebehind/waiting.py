"""Waiting until a row's queued writes are drained, and the signal that is sent after each batch.

A caller that waits asks less and less often, so that many callers do not overload the database.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import router
from django.dispatch import Signal

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import WriteBehindError
from cachebackend.writebehind import reads
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.parked import parked_of

__all__ = ["await_drained", "landed", "wait_drained"]

#: Sent after the commit of each drained batch, in the process that drained it. ``sender`` is the model;
#: the arguments are ``partition``, ``batch`` (its number), ``rows`` (the number of rows that changed) and
#: ``using`` (the alias of the database).
landed = Signal()
#: Seconds between the first two looks, and the most between two looks.
FIRST_SECONDS, MAX_SECONDS = 0.05, 1.0


def wait_drained(rows: Rows, pk: Any, timeout: float) -> bool:
    """Wait until the writes of a row that are queued now are drained.

    Returns:
        Whether they were drained within ``timeout`` seconds.

    Raises:
        WriteBehindError: A write of the row is parked, and only a person can retry it.
    """
    looks = _looks(rows, pk, timeout)
    while (seconds := next(looks)) > 0:
        time.sleep(seconds)
    return seconds == 0


async def await_drained(rows: Rows, pk: Any, timeout: float) -> bool:  # as its twin
    """Wait until the writes of a row that are queued now are drained, as ``wait_drained``."""
    looks = _looks(rows, pk, timeout)
    look = sync_to_async(lambda: next(looks))
    while (seconds := await look()) > 0:  # noqa: ASYNC110  # the drain runs in another process
        await asyncio.sleep(seconds)
    return seconds == 0


def _looks(rows: Rows, pk: Any, timeout: float) -> Iterator[float]:
    """Yield after each look the seconds until the next; 0: all is drained; -1: the time is over.

    The queue is read before the parked writes:

        1. the queue is read, and a batch with a write of the row is in it;
        2. a drain parks the write and deletes the batch;
        3. the parked writes are read, and the write is among them.

    In the other order neither would have the write.
    """
    if not 0 <= timeout < math.inf:  # it is false for NaN too
        message = f"timeout is a number of seconds from 0, not {timeout!r}"
        raise ValueError(message)
    end, pause = SYSTEM_CLOCK.monotonic() + timeout, FIRST_SECONDS
    waited = _batches(rows, pk)
    while True:
        is_queued = not waited.isdisjoint(_batches(rows, pk))
        if not _is_parked(rows, pk) and not is_queued:
            yield 0.0
        left = end - SYSTEM_CLOCK.monotonic()
        if left <= 0:
            yield -1.0
        yield min(pause, left)
        pause = min(2 * pause, MAX_SECONDS)


def _batches(rows: Rows, pk: Any) -> set[tuple[str, int]]:
    """Return the batches with writes of a row that are not drained: for each its queue and its number."""
    return {(batch.incarnation, batch.number) for batch in reads.pending(rows, pk)}


def _is_parked(rows: Rows, pk: Any) -> bool:
    """Return whether writes of the row are parked and are retried by themselves.

    The oldest one decides: those behind it are retried with it.

    Raises:
        WriteBehindError: They are not retried by themselves.
    """
    oldest = parked_of(rows, pk, router.db_for_write(rows.model)).first()
    if oldest is not None and oldest.retry_at is None:
        message = (
            f"{rows.model.__name__} {pk!r}: a write is parked and is not drained until it is retried or "
            "discarded; see `manage.py writebehind parked`"
        )
        raise WriteBehindError(message)
    return oldest is not None

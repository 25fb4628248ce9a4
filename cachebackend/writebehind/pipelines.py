"""Pipelines: writes of single rows that are collected, and sent to the queue nodes together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast

from django.db import models

from cachebackend.protocol.queue import RowWrite
from cachebackend.writebehind.changes import Rows

__all__ = ["GivenWrite", "Pipeline"]

M = TypeVar("M", bound=models.Model)
#: A write: the row's key and its changes as they were given, and the encoded write. Without changes the row
#: is created or deleted.
GivenWrite: TypeAlias = tuple[Any, Mapping[str, Any] | None, RowWrite]
#: The most writes that are collected, so that a long loop needs little memory.
MAX_WRITES = 1000


class Pipeline(Generic[M]):
    """Collects writes and sends them together: ``with Page.behind.pipelined() as pipeline``.

    Its methods take what those of the manager take. A write that is not valid raises at its call. All
    others are sent when the block ends, when 1,000 are collected, or before a second write of the same row.
    **A write is queued once they are sent without an error, and not when its method returns.** If some are
    not queued, the call that sends them, or the end of the block, raises WriteBehindPartialError with the
    error of each; the write of that call is collected all the same. If the block raises, those that are not
    sent yet are not queued.

    In an event loop it is ``async with``, with ``aupdate``, ``acreate`` and ``adelete``. Threads and tasks
    may share a pipeline; two writes of one row then have the order in which they are collected.

    Args:
        rows: The rows of the model.
        send: Queues some writes of different rows, or raises WriteBehindPartialError.
        send_async: The same in an event loop.
    """

    def __init__(
        self,
        rows: Rows,
        send: Callable[[Sequence[GivenWrite]], None],
        send_async: Callable[[Sequence[GivenWrite]], Awaitable[None]],
    ) -> None:
        self._rows = rows
        self._send = send
        self._send_async = send_async
        #: The writes that are not sent yet, by the row's key in the queue; None: the block is not open.
        self._writes: dict[bytes, GivenWrite] | None = None
        # Held while writes are sent: another thread or task must not send later writes of a row before them
        self._lock, self._async_lock = threading.Lock(), asyncio.Lock()

    def update(self, pk: Any, **changes: Any) -> None:
        """Collect changes of one row, as ``update`` of the manager takes them."""
        self._add(pk, changes, self._rows.change(pk, changes))

    async def aupdate(self, pk: Any, **changes: Any) -> None:
        """Collect changes of one row, as ``update``."""
        await self._add_async(pk, changes, self._rows.change(pk, changes))

    def create(self, **values: Any) -> M:
        """Collect a new row and return it, as ``create`` of the manager."""
        write, instance = self._rows.create(values)
        self._add(instance.pk, None, write)
        return cast("M", instance)

    async def acreate(self, **values: Any) -> M:
        """Collect a new row and return it, as ``create``."""
        write, instance = self._rows.create(values)
        await self._add_async(instance.pk, None, write)
        return cast("M", instance)

    def delete(self, pk: Any) -> None:
        """Collect the deletion of a row, as ``delete`` of the manager."""
        self._add(pk, None, self._rows.delete(pk))

    async def adelete(self, pk: Any) -> None:
        """Collect the deletion of a row, as ``delete``."""
        await self._add_async(pk, None, self._rows.delete(pk))

    def __enter__(self) -> Self:
        """Open the block, and return the pipeline."""
        self._writes = {}
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Send the writes that are left, unless the block raised."""
        with self._lock:
            writes = self._end()
            if writes and kind is None:
                self._send(writes)

    async def __aenter__(self) -> Self:
        """Open the block, and return the pipeline."""
        self._writes = {}
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Send the writes that are left, unless the block raised."""
        async with self._async_lock:
            writes = self._end()
            if writes and kind is None:
                await self._send_async(writes)

    def _add(self, pk: Any, changes: Mapping[str, Any] | None, write: RowWrite) -> None:
        with self._lock:
            if due := self._collect((pk, changes, write)):
                self._send(due)

    async def _add_async(self, pk: Any, changes: Mapping[str, Any] | None, write: RowWrite) -> None:
        async with self._async_lock:
            if due := self._collect((pk, changes, write)):
                await self._send_async(due)

    def _collect(self, given: GivenWrite) -> list[GivenWrite]:
        """Collect a write; return the writes that must be sent before it is.

        Raises:
            RuntimeError: The block is not open, so the write would never be sent.
        """
        row = given[2].row
        if self._writes is None:
            message = "a pipeline takes writes in its block only: with manager.pipelined() as pipeline"
            raise RuntimeError(message)
        if row not in self._writes and len(self._writes) < MAX_WRITES:
            self._writes[row] = given
            return []
        due, self._writes = list(self._writes.values()), {row: given}
        return due

    def _end(self) -> list[GivenWrite]:
        """End the block, and return the writes that are not sent yet."""
        writes, self._writes = self._writes or {}, None
        return list(writes.values())

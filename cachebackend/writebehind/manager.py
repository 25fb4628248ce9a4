"""``WriteBehindManager``: takes writes of a model into the queue, and reads what waits there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, models, router

from cachebackend import protocol
from cachebackend.client import QueueClient
from cachebackend.effects import Operation
from cachebackend.errors import (
    NodeUnavailableError,
    WriteBehindFullError,
    WriteBehindPartialError,
    WriteBehindRefusedError,
)
from cachebackend.protocol import Folded, Partition, RowWrite
from cachebackend.writebehind import reads
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.queue import note_model, project_queue

__all__ = ["WriteBehindManager"]

M = TypeVar("M", bound=models.Model)
#: What ``update_many`` takes: for each primary key the row's changes.
Many: TypeAlias = Mapping[Any, Mapping[str, Any]] | Iterable[tuple[Any, Mapping[str, Any]]]
#: A row of it: the key as it was given, its changes, and what travels of them.
Asked: TypeAlias = tuple[Any, Mapping[str, Any], RowWrite]
#: Rows that one script call folds.
_ROWS_A_CALL = 1000


class WriteBehindManager(Generic[M]):
    """Takes writes in one round trip; a Celery worker lands them in Postgres.

    Args:
        fields: The fields that may be changed.
        counters: Those of them that are only ever added to. A sum may overtake what is
            queued of them, so ``on_full`` and ``on_unavailable`` can write it at once.

    ``Page.behind.update(pk, views=F("views") + 1)`` returns when the queue node has the
    write. A million such increments of a row are one number in the queue, and one UPDATE.
    """

    model: type[M]

    def __init__(self, fields: Sequence[str], counters: Sequence[str] = ()) -> None:
        self.fields = tuple(fields)
        self.counters = tuple(counters)
        self.rows: Rows

    def contribute_to_class(self, model: type[M], name: str) -> None:
        """Become the attribute of a model. Called by Django."""
        if model._meta.abstract:
            message = f"{model.__name__}.{name}: a WriteBehindManager belongs on a model that has rows"
            raise ImproperlyConfigured(message)
        self.model = model
        self.rows = Rows(model, self.fields, self.counters)
        note_model(model)
        setattr(model, name, self)

    def update(self, pk: Any, **changes: Any) -> None:
        """Queue changes of one row; they land together. A row that is not there stays so.

        Args:
            pk: The row's primary key.
            changes: For each field a value; ``F(field)`` plus or minus a number; or
                ``Greatest`` or ``Least`` of ``F(field)`` and a value.

        Raises:
            WriteBehindRefusedError: A change cannot be taken; nothing was queued.
            WriteBehindFullError: The queue is full; nothing was queued.
            NodeUnavailableError: The queue node cannot be reached; nothing was queued.
            WriteBehindUnknownError: It did not answer; whether it took the changes is not
                known. To send them again may double a sum.
        """
        self._settle(self._run_one(self.rows.change(pk, changes)), pk, changes)

    async def aupdate(self, pk: Any, **changes: Any) -> None:
        """Queue changes of one row, as ``update``."""
        outcomes = await self._arun([self.rows.change(pk, changes)])
        await self._asettle(outcomes, pk, changes)

    def update_many(self, changes: Many) -> None:
        """Queue changes of many rows, in one round trip to all queue nodes.

        In one more for each further 1,000 rows of a partition, so that no script runs for long.

        Args:
            changes: For each primary key what ``update`` takes; a mapping, or pairs.

        Raises:
            WriteBehindRefusedError: A change cannot be taken, or a row is named twice;
                nothing was queued.
            WriteBehindPartialError: Some rows were not taken; it says which and why.
        """
        asked = self._asked(changes)
        self._settle_many(self._run([write for _, _, write in asked]), asked)

    async def aupdate_many(self, changes: Many) -> None:
        """Queue changes of many rows, as ``update_many``."""
        asked = self._asked(changes)
        if errors := await self._arun([write for _, _, write in asked]):
            await sync_to_async(self._settle_many)(errors, asked)

    def create(self, **values: Any) -> M:
        """Queue a new row and return it as it will be; the fields left out have their defaults.

        Raises:
            WriteBehindRefusedError: A value cannot be taken, or the row is queued already;
                nothing was queued. A row that stands in the database is found only by
                the drain, which parks the write.
            WriteBehindFullError, NodeUnavailableError, WriteBehindUnknownError: As ``update``.
        """
        write, instance = self.rows.create(values)
        self._settle(self._run_one(write))
        return cast("M", instance)

    async def acreate(self, **values: Any) -> M:
        """Queue a new row, as ``create``."""
        write, instance = self.rows.create(values)
        self._settle(await self._arun([write]))
        return cast("M", instance)

    def delete(self, pk: Any) -> None:
        """Queue the end of a row, of the database's row alone: no signals, no cascades of Django's.

        Raises:
            WriteBehindRefusedError, WriteBehindFullError, NodeUnavailableError,
                WriteBehindUnknownError: As ``update``.
        """
        self._settle(self._run_one(self.rows.delete(pk)))

    async def adelete(self, pk: Any) -> None:
        """Queue the end of a row, as ``delete``."""
        self._settle(await self._arun([self.rows.delete(pk)]))

    def get(self, pk: Any) -> M:
        """Return a row as it will be when all that was queued has landed.

        Raises:
            DoesNotExist: There is no such row, or its end is queued.
            NodeUnavailableError: A queue node did not answer.
            WriteBehindError: In this transaction the database shows only what was; see
                ``reading``.
        """
        found = self.in_bulk([pk])
        if not found:
            message = f"{self.model.__name__} matching query does not exist."
            raise self.model.DoesNotExist(message)  # type: ignore[attr-defined]  # every model has it
        return next(iter(found.values()))

    async def aget(self, pk: Any) -> M:
        """Return a row as it will be, as ``get``."""
        return await sync_to_async(self.get)(pk)

    def in_bulk(self, pks: Iterable[Any]) -> dict[Any, M]:
        """Return the rows that there are of these, by primary key, as ``get`` has them."""
        return reads.merged(self.rows, list(pks))

    async def ain_bulk(self, pks: Iterable[Any]) -> dict[Any, M]:
        """Return the rows that there are of these, as ``in_bulk``."""
        return await sync_to_async(self.in_bulk)(pks)

    def pending(self, pk: Any) -> list[reads.PendingBatch]:
        """Return what is queued of a row and has not landed, a batch each, in their order."""
        return reads.pending(self.rows, pk)

    async def apending(self, pk: Any) -> list[reads.PendingBatch]:
        """Return what is queued of a row, as ``pending``."""
        return await sync_to_async(self.pending)(pk)

    def _asked(self, changes: Many) -> list[Asked]:
        pairs = changes.items() if isinstance(changes, Mapping) else changes
        asked = [(pk, each, self.rows.change(pk, each)) for pk, each in pairs]
        if len({write.row for _, _, write in asked}) < len(asked):
            message = f"{self.model.__name__}.behind.update_many() was given one row twice"
            raise WriteBehindRefusedError(message)
        return asked

    def _run_one(self, write: RowWrite) -> dict[bytes, Exception]:
        folded = project_queue().fold_one(self.rows.partition(write.row), write)
        return self._errors([write], folded)

    def _run(self, writes: Sequence[RowWrite]) -> dict[bytes, Exception]:
        client = project_queue()
        return client.run(self._fold(client, writes))

    async def _arun(self, writes: Sequence[RowWrite]) -> dict[bytes, Exception]:
        client = project_queue()
        return await client.arun(self._fold(client, writes))

    def _fold(self, client: QueueClient, writes: Sequence[RowWrite]) -> Operation[dict[bytes, Exception]]:
        """Fold the writes; return why rows were not taken."""
        groups: dict[Partition, list[RowWrite]] = {}
        for write in writes:
            groups.setdefault(self.rows.partition(write.row), []).append(write)
        errors: dict[bytes, Exception] = {}
        while groups:
            calls = [(partition, waiting[:_ROWS_A_CALL]) for partition, waiting in groups.items()]
            results = yield from protocol.fold(client.context, calls)
            for (_, rows), folded in zip(calls, results, strict=True):
                errors.update(self._errors(rows, folded))
            groups = {p: waiting[_ROWS_A_CALL:] for p, waiting in groups.items() if waiting[_ROWS_A_CALL:]}
        return errors

    def _errors(self, rows: Sequence[RowWrite], folded: Folded) -> dict[bytes, Exception]:
        if folded.error is None and folded.codes.count(protocol.OK) == len(rows):
            return {}
        answered, left = rows[: len(folded.codes)], rows[len(folded.codes) :]
        errors = {
            write.row: self._error(code)
            for write, code in zip(answered, folded.codes, strict=True)
            if code != protocol.OK
        }
        if folded.error is not None:
            errors |= dict.fromkeys((write.row for write in left), folded.error)
        return errors

    def _error(self, code: bytes) -> Exception:
        name = self.model.__name__
        if code == b"full":
            return WriteBehindFullError(
                f"{name}: as much waits as WRITE_BEHIND['high_water'] allows; nothing was queued. "
                "Are the workers and the database well? `manage.py writebehind status` tells"
            )
        if code == b"overflow":
            return WriteBehindRefusedError(
                f"{name}: the sum of what is queued for the row is beyond 64 bits; nothing was queued"
            )
        return WriteBehindRefusedError(f"{name}: the row's creation is queued already; nothing was queued")

    def _settle(
        self, errors: Mapping[bytes, Exception], pk: Any = None, changes: Mapping[str, Any] | None = None
    ) -> None:
        for error in errors.values():
            if changes is None or not self._is_written_through(error, pk, changes):
                raise error

    async def _asettle(self, errors: Mapping[bytes, Exception], pk: Any, changes: Mapping[str, Any]) -> None:
        if errors:
            await sync_to_async(self._settle)(errors, pk, changes)

    def _settle_many(self, errors: Mapping[bytes, Exception], asked: Iterable[Asked]) -> None:
        left: dict[Any, Exception] = {}
        for pk, changes, write in asked:
            if (error := errors.get(write.row)) is not None:
                try:
                    if not self._is_written_through(error, pk, changes):
                        left[pk] = error
                except Error as refused:  # the database's, of this row: the others' fate is told too
                    left[pk] = refused
        if left:
            raise WriteBehindPartialError(left)

    def _is_written_through(self, error: Exception, pk: Any, changes: Mapping[str, Any]) -> bool:
        """Write what was not taken to the database, if the settings say so; return whether it is there."""
        return self._may_write_through(error, changes) and self._write_through(pk, changes)

    def _may_write_through(self, error: Exception, changes: Collection[str]) -> bool:
        """Return whether the settings send a write that was not taken to the database."""
        options = project_queue().options
        if isinstance(error, WriteBehindFullError):
            policy = options.on_full
        elif isinstance(error, NodeUnavailableError) and not error.was_sent:
            policy = options.on_unavailable
        else:
            return False
        return policy == "write_through" and self.rows.are_counters(changes)

    def _write_through(self, pk: Any, changes: Mapping[str, Any]) -> bool:
        """Write to the database at once; return whether the row was there."""
        from cachebackend.invalidation import InvalidatingQuerySet

        using = router.db_for_write(self.model)
        return bool(InvalidatingQuerySet(self.model, using=using).filter(pk=pk).update(**changes))

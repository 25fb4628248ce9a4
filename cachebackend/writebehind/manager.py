"""``WriteBehindManager``: queues writes of a model's rows, and reads rows with their queued writes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.errors import WriteBehindPartialError, WriteBehindRefusedError
from cachebackend.inherited import inherited_attributes
from cachebackend.invalidation.watched import is_historical
from cachebackend.writebehind import reads
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.descriptions import PendingBatch, pending_batch
from cachebackend.writebehind.fallback import fall_back
from cachebackend.writebehind.folds import afold_rows, fold_row, fold_rows
from cachebackend.writebehind.pipelines import GivenWrite, Pipeline
from cachebackend.writebehind.queue import behind_models, register_model
from cachebackend.writebehind.queued_columns import refuse_saves_of_queued_columns
from cachebackend.writebehind.waiting import await_drained, wait_drained

__all__ = ["WriteBehindManager"]

M = TypeVar("M", bound=models.Model)
#: The argument of ``update_many``: for each primary key the row's changes.
Many: TypeAlias = Mapping[Any, Mapping[str, Any]] | Iterable[tuple[Any, Mapping[str, Any]]]


class WriteBehindManager(Generic[M]):
    """Queues writes in one round trip; a Celery worker drains them to Postgres.

    Args:
        fields: The fields that may be changed.
        counters: Those of them that are only ever added to. The order of additions does not
            matter, so ``on_full`` and ``on_unavailable`` can write them to the database at once, or
            drop them.
        updates_only: Whether rows are never created or deleted behind: ``create`` and ``delete`` raise.
            ``on_unavailable="write_through"`` needs it, because a queued creation or deletion that
            nothing shows would undo the write.

    ``Page.behind.update(pk, views=F("views") + 1)`` returns when the queue node has the
    write. A million such increments of a row are one number in the queue, and one UPDATE.

    Each child of an abstract model has its own manager. In multi-table inheritance a child has none:
    the parent's manager writes the parent's columns.
    """

    model: type[M]
    name: str

    def __init__(
        self, fields: Sequence[str], counters: Sequence[str] = (), *, updates_only: bool = False
    ) -> None:
        self.fields = tuple(fields)
        self.counters = tuple(counters)
        self.updates_only = updates_only
        self.rows: Rows

    def contribute_to_class(self, model: type[M], name: str) -> None:
        """Set the manager as an attribute of the model. Called by Django."""
        self.model, self.name = model, name
        setattr(model, name, self)
        if model._meta.abstract or is_historical(model):
            return
        self.rows = Rows(model, self.fields, self.counters, self.updates_only)
        register_model(model)
        refuse_saves_of_queued_columns(model)

    def __get__(self, instance: models.Model | None, owner: type[models.Model]) -> Self:
        """Return the manager. A proxy has that of its concrete model; a child with a table has none."""
        if owner is self.model or owner._meta.concrete_model is self.model:
            if owner._meta.abstract:
                message = f"{owner.__name__} is abstract; its children have {self.name!r}"
                raise AttributeError(message)
            return self
        message = (
            f"{owner.__name__} has no {self.name!r} of its own: {self.model.__name__}.{self.name} writes the "
            f"columns of {self.model.__name__}"
        )
        raise AttributeError(message)

    def update(self, pk: Any, **changes: Any) -> None:
        """Queue changes of one row, which are applied together. If the row does not exist, nothing is.

        Args:
            pk: The row's primary key.
            changes: For each field a value; ``F(field)`` plus or minus a number; or
                ``Greatest`` or ``Least`` of ``F(field)`` and a value.

        Raises:
            WriteBehindRefusedError: A change is not supported or not valid; nothing was queued.
            WriteBehindFullError: The queue is full; nothing was queued.
            NodeUnavailableError: The queue node cannot be reached; nothing was queued.
            WriteBehindUnknownError: The queue node did not answer. It is not known whether it took
                the changes, so sending them again may add a delta twice.
        """
        self._fall_back_or_raise(fold_row(self.rows, self.rows.change(pk, changes)), pk, changes)

    async def aupdate(self, pk: Any, **changes: Any) -> None:
        """Queue changes of one row, as ``update``."""
        errors = await afold_rows(self.rows, [self.rows.change(pk, changes)])
        await self._afall_back_or_raise(errors, pk, changes)

    def update_many(self, changes: Many) -> None:
        """Queue changes of many rows, in one round trip to all queue nodes.

        Each further 1,000 rows of a partition take one more round trip, so that no script runs long.

        Args:
            changes: For each primary key the arguments of ``update``; a mapping, or pairs.

        Raises:
            WriteBehindRefusedError: A change is not supported or not valid, or a row is given
                twice; nothing was queued.
            WriteBehindPartialError: Some rows were not queued; the error has each one's own error.
        """
        self._queue_many(self._encode_many(changes))

    async def aupdate_many(self, changes: Many) -> None:
        """Queue changes of many rows, as ``update_many``."""
        await self._aqueue_many(self._encode_many(changes))

    def pipelined(self) -> Pipeline[M]:
        """Return a block in which the writes of single rows are collected and sent together.

        ``with Page.behind.pipelined() as pipeline: pipeline.update(pk, views=F("views") + 1)``. A write is
        queued when the block ends without an error, and not when its method returns.
        """
        return Pipeline(self.rows, self._queue_many, self._aqueue_many)

    def create(self, **values: Any) -> M:
        """Queue a new row and return it as it will be stored; fields that are left out get their defaults.

        A creation whose outcome is unknown may be sent again with the same values; it has no further
        effect. Pass the key and the times as values then, because a default differs at each call.

        ``save()`` of the instance raises, as for one that ``get`` returns.

        Raises:
            WriteBehindRefusedError: A value is not valid, or the row's creation with other values is
                queued already; nothing was queued. If the row exists in the database with other
                values, only the drain finds that out, and parks the write.
            WriteBehindFullError, NodeUnavailableError, WriteBehindUnknownError: As ``update``.
        """
        write, instance = self.rows.create(values)
        self._fall_back_or_raise(fold_row(self.rows, write))
        return cast("M", instance)

    async def acreate(self, **values: Any) -> M:
        """Queue a new row, as ``create``."""
        write, instance = self.rows.create(values)
        self._fall_back_or_raise(await afold_rows(self.rows, [write]))
        return cast("M", instance)

    def delete(self, pk: Any) -> None:
        """Queue the deletion of a row. Only the row itself is deleted: no signals, no cascades by Django.

        Raises:
            WriteBehindRefusedError, WriteBehindFullError, NodeUnavailableError,
                WriteBehindUnknownError: As ``update``.
        """
        self._fall_back_or_raise(fold_row(self.rows, self.rows.delete(pk)))

    async def adelete(self, pk: Any) -> None:
        """Queue the deletion of a row, as ``delete``."""
        self._fall_back_or_raise(await afold_rows(self.rows, [self.rows.delete(pk)]))

    def get(self, pk: Any) -> M:
        """Return a row as it will be when all queued writes are drained.

        ``save()`` of the instance raises WriteBehindRefusedError if it would write a column that has
        queued writes: the drain would apply them a second time.

        Raises:
            DoesNotExist: The row does not exist, or its deletion is queued.
            NodeUnavailableError: A queue node did not answer.
            WriteBehindError: The transaction's snapshot is too old for an exact answer; see
                ``cachebackend.writebehind.reads``.
        """
        rows = self.in_bulk([pk])
        if not rows:
            message = f"{self.model.__name__} matching query does not exist."
            raise self.model.DoesNotExist(message)  # type: ignore[attr-defined]  # every model has it
        return next(iter(rows.values()))

    async def aget(self, pk: Any) -> M:
        """Return a row with its queued writes, as ``get``."""
        return await sync_to_async(self.get)(pk)

    def in_bulk(self, pks: Iterable[Any]) -> dict[Any, M]:
        """Return the rows that exist, by primary key, each with its queued writes, as ``get``."""
        return reads.merged_rows(self.rows, list(pks))

    async def ain_bulk(self, pks: Iterable[Any]) -> dict[Any, M]:
        """Return the rows that exist, as ``in_bulk``."""
        return await sync_to_async(self.in_bulk)(pks)

    def pending(self, pk: Any) -> list[PendingBatch]:
        """Return the queued writes of a row that are not drained, one item for each batch, in order."""
        return [pending_batch(self.rows, batch) for batch in reads.pending(self.rows, pk)]

    async def apending(self, pk: Any) -> list[PendingBatch]:
        """Return the queued writes of a row, as ``pending``."""
        return await sync_to_async(self.pending)(pk)

    def wait(self, pk: Any, timeout: float = 10.0) -> bool:
        """Wait until the row's writes that are queued now are in the database.

        Call it outside of a transaction: one with a fixed snapshot would never see them.

        Args:
            pk: The row's primary key.
            timeout: The most seconds to wait.

        Returns:
            Whether they are in the database.

        Raises:
            WriteBehindError: A write of the row is parked, and only a person can retry it.
            NodeUnavailableError: A queue node did not answer.
        """
        return wait_drained(self.rows, pk, timeout)

    async def await_(self, pk: Any, timeout: float = 10.0) -> bool:  # as its twin
        """Wait until the row's queued writes are in the database, as ``wait``."""
        return await await_drained(self.rows, pk, timeout)

    def _queue_many(self, writes: Sequence[GivenWrite]) -> None:
        self._fall_back_or_raise_many(fold_rows(self.rows, [write for _, _, write in writes]), writes)

    async def _aqueue_many(self, writes: Sequence[GivenWrite]) -> None:
        if errors := await afold_rows(self.rows, [write for _, _, write in writes]):
            await sync_to_async(self._fall_back_or_raise_many)(errors, writes)

    def _encode_many(self, changes: Many) -> list[GivenWrite]:
        pairs = changes.items() if isinstance(changes, Mapping) else changes
        writes: list[GivenWrite] = [(pk, each, self.rows.change(pk, each)) for pk, each in pairs]
        if len({write.row for _, _, write in writes}) < len(writes):
            message = f"{self.model.__name__}.behind.update_many() was given one row twice"
            raise WriteBehindRefusedError(message)
        return writes

    def _fall_back_or_raise(
        self, errors: Mapping[bytes, Exception], pk: Any = None, changes: Mapping[str, Any] | None = None
    ) -> None:
        for error in errors.values():
            if (final := fall_back(self.rows, error, pk, changes)) is not None:
                raise final

    async def _afall_back_or_raise(
        self, errors: Mapping[bytes, Exception], pk: Any, changes: Mapping[str, Any]
    ) -> None:
        if errors:
            await sync_to_async(self._fall_back_or_raise)(errors, pk, changes)

    def _fall_back_or_raise_many(
        self, errors: Mapping[bytes, Exception], writes: Iterable[GivenWrite]
    ) -> None:
        failed: dict[Any, Exception] = {}
        for pk, changes, write in writes:
            error = errors.get(write.row)
            if error is not None and (final := fall_back(self.rows, error, pk, changes)) is not None:
                failed[pk] = final
        if failed:
            raise WriteBehindPartialError(failed)


def _refuse_second_queue(model: type[models.Model], name: str) -> None:
    """Raise if a proxy's rows would have two queues, so that the order of their writes would be lost."""
    concrete = model._meta.concrete_model
    for other in behind_models():
        if other is not model and other._meta.concrete_model is concrete:
            message = (
                f"{model.__name__}.{name}: {other.__name__} has a WriteBehindManager for the same rows; "
                "use that one, or remove it"
            )
            raise ImproperlyConfigured(message)


def _copy_inherited(*, sender: type[models.Model], **_: Any) -> None:
    """Give a model its own copy of each WriteBehindManager of its abstract bases."""
    for name, manager in vars(sender).items():
        if isinstance(manager, WriteBehindManager) and sender._meta.proxy:
            _refuse_second_queue(sender, name)
    for name, manager in inherited_attributes(sender, WriteBehindManager).items():
        if manager.model._meta.abstract:
            copy.copy(manager).contribute_to_class(sender, name)


class_prepared.connect(_copy_inherited, dispatch_uid="ringcache:behind")

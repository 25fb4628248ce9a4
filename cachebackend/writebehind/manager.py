"""``WriteBehindManager``: takes writes of a model into the queue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured, ValidationError
from django.db import models
from xxhash import xxh3_64_intdigest

from cachebackend import protocol
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind.expressions import write_of
from cachebackend.writebehind.queue import project_queue
from cachebackend.writebehind.wire import wire_of

__all__ = ["WriteBehindManager", "managed_field", "split_field"]

M = TypeVar("M", bound=models.Model)
_SEPARATOR = b"\0"


class WriteBehindManager(Generic[M]):
    """Takes writes in one round trip; a Celery worker lands them in Postgres.

    Args:
        fields: The fields that may be written behind.

    ``Page.behind.update(pk, views=F("views") + 1)`` returns when the queue node has the
    write. A million such increments of a row are one number in the queue, and one UPDATE.
    """

    model: type[M]

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self._opened: dict[protocol.Partition, int] = {}

    def contribute_to_class(self, model: type[M], name: str) -> None:
        """Become the attribute of a model. Called by Django."""
        if model._meta.abstract:
            message = f"{model.__name__}.{name}: a WriteBehindManager belongs on a model that has rows"
            raise ImproperlyConfigured(message)
        self.model = model
        setattr(model, name, self)

    def update(self, pk: Any, **changes: Any) -> None:
        """Queue changes of one row; they land together. A row that is not there stays so.

        Args:
            pk: The row's primary key.
            changes: For each field a value, or ``F(field)`` plus or minus a number.

        Raises:
            WriteBehindRefusedError: A change cannot be taken; nothing was queued.
            NodeUnavailableError: The queue node did not answer; whether it took the
                changes is not known.
        """
        partition, writes = self._writes(pk, changes)
        client = project_queue()
        opened = self._opened.get(partition, 1)
        self._opened[partition] = client.run(protocol.fold(client.context, partition, opened, writes))

    async def aupdate(self, pk: Any, **changes: Any) -> None:
        """Queue changes of one row, as ``update``."""
        partition, writes = self._writes(pk, changes)
        client = project_queue()
        opened = self._opened.get(partition, 1)
        self._opened[partition] = await client.arun(protocol.fold(client.context, partition, opened, writes))

    def _writes(self, pk: Any, changes: dict[str, Any]) -> tuple[protocol.Partition, list[protocol.Write]]:
        if not changes:
            message = f"{self.model.__name__}.behind.update() was given nothing to change"
            raise WriteBehindRefusedError(message)
        key = self._key(pk)
        writes: list[protocol.Write] = []
        for name, change in changes.items():
            field = self._fields.get(name)
            if field is None:
                message = (
                    f"{self.model.__name__}.{name} is not written behind; add it to "
                    f"WriteBehindManager(fields=[…]), which has {', '.join(self.fields)}"
                )
                raise WriteBehindRefusedError(message)
            kind, travels = write_of(field, change)
            writes.append((b"%b\0%b\0" % (key, str(field.column).encode()), kind, travels))
        return self._partition(key), writes

    def _key(self, pk: Any) -> bytes:
        field = self.model._meta.pk
        try:
            key = wire_of(field).dump(field.to_python(pk)) if pk is not None else _SEPARATOR
        except (ValidationError, AttributeError, TypeError, ValueError, WriteBehindRefusedError):
            key = _SEPARATOR
        if _SEPARATOR in key:
            message = f"{self.model.__name__} has no primary key like {pk!r}"
            raise WriteBehindRefusedError(message)
        return key

    def _partition(self, key: bytes) -> protocol.Partition:
        """Return where a row's writes belong: always the same place, so they stay in order."""
        partitions = project_queue().options.partitions
        return protocol.Partition(self.model._meta.label_lower, xxh3_64_intdigest(key) % partitions)

    @cached_property
    def _fields(self) -> dict[str, models.Field[Any, Any]]:
        fields = [managed_field(self.model, name) for name in self.fields]
        return {name: field for field in fields for name in (field.name, field.attname)}


def managed_field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    """Return a model's column by its field's name.

    Raises:
        ImproperlyConfigured: There is none, or it cannot be written behind.
    """
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    own = field in model._meta.local_concrete_fields  # a parent's column is in the parent's table
    if not own or not isinstance(field, models.Field) or field.primary_key:
        message = f"{model.__name__}: {name!r} is not a column that can be written behind"
        raise ImproperlyConfigured(message)
    wire_of(field)
    return field


def split_field(field: bytes) -> tuple[bytes, str, bytes]:
    """Return the row's key, the column and the kind of write that a batch's field is named by."""
    key, column, kind = field.split(_SEPARATOR)
    return key, column.decode(), kind

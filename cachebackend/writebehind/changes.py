"""What a call asks for, checked and turned into what the queue folds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured, ValidationError
from django.db import models, router
from django.db.models.expressions import DatabaseDefault, Value
from xxhash import xxh3_64_intdigest

from cachebackend.conf import write_behind_options
from cachebackend.errors import WriteBehindDamagedError, WriteBehindRefusedError
from cachebackend.protocol import Change, Partition, RowWrite
from cachebackend.writebehind.expressions import DELTA, KINDS, PUT, write_of
from cachebackend.writebehind.wire import checked_value, wire_of

__all__ = ["CHANGE", "CREATE", "DELETE", "MARKER", "SEPARATOR", "Rows", "split_field"]

#: What stands between the parts of a field's name.
SEPARATOR = b"\0"
#: The operations, as the fold script has them.
CHANGE, CREATE, DELETE = b"u", b"c", b"x"
#: The kind of the field, with no column, that says what is done to a row before its changes.
MARKER = b"m"
_NAMED_KINDS = frozenset({*KINDS, MARKER})


class Rows:
    """The rows of a model, as the queue names them.

    Args:
        model: Their model.
        fields: The fields that may be changed.
        counters: Those of them that are only ever added to.
    """

    def __init__(self, model: type[models.Model], fields: Sequence[str], counters: Sequence[str]) -> None:
        self.model = model
        self._names = tuple(fields)
        self._counters = tuple(counters)
        self._partitions: dict[int, Partition] = {}
        if unknown := set(counters) - set(fields):
            message = f"{model.__name__}: counters are fields too, and {sorted(unknown)} are not among them"
            raise ImproperlyConfigured(message)

    def change(self, pk: Any, changes: Mapping[str, Any]) -> RowWrite:
        """Return what changes a row.

        Raises:
            WriteBehindRefusedError: A change cannot be taken.
        """
        if not changes:
            message = f"{self.model.__name__}.behind.update() was given nothing to change"
            raise WriteBehindRefusedError(message)
        row = self.row(pk)
        travels: dict[str, Change] = {}
        for name, change in changes.items():
            field = self.fields.get(name)
            if field is None:
                message = (
                    f"{self.model.__name__}.{name} is not written behind; add it to "
                    f"WriteBehindManager(fields=[…]), which has {', '.join(self._names)}"
                )
                raise WriteBehindRefusedError(message)
            if field.attname in travels:
                message = f"{self.model.__name__}.{name} is given twice, once by its column's name"
                raise WriteBehindRefusedError(message)
            kind, value = write_of(field, change)
            if kind != DELTA and field.name in self._counters:
                message = f"{self.model.__name__}.{name} is a counter: F({name!r}) ± n is all that it takes"
                raise WriteBehindRefusedError(message)
            travels[field.attname] = (column_of(row, field), kind, value)
        return RowWrite(CHANGE, row, tuple(travels.values()))

    def create(self, values: Mapping[str, Any]) -> tuple[RowWrite, models.Model]:
        """Return what creates a row with these values and the fields' defaults, and the row as it will be.

        Raises:
            WriteBehindRefusedError: A value cannot be taken, or the model has parents.
        """
        self._refuse_parents("create")
        key = self.model._meta.pk
        pk = next((values[name] for name in ("pk", key.name, key.attname) if name in values), None)
        if pk is None and not key.has_default():
            message = (
                f"{self.model.__name__}.behind.create() needs the primary key, for the database is asked "
                "only later: give pk=…, or the key field a default such as cachebackend.uuid7"
            )
            raise WriteBehindRefusedError(message)
        try:
            instance = self.model(**values)
        except (TypeError, ValueError) as error:
            message = f"{self.model.__name__}.behind.create(): {error}"
            raise WriteBehindRefusedError(message) from error
        row = self.row(instance.pk)
        instance.pk = wire_of(key).load(row[:-1])
        changes: list[Change] = []
        for field in self.columns:
            if not field.primary_key:
                travels = _created(field, instance)
                setattr(instance, field.attname, wire_of(field).put(travels))
                changes.append((column_of(row, field), PUT, travels))
        instance._state.adding = False
        instance._state.db = router.db_for_write(self.model)
        return RowWrite(CREATE, row, tuple(changes)), instance

    def delete(self, pk: Any) -> RowWrite:
        """Return what deletes a row.

        Raises:
            WriteBehindRefusedError: The key cannot be one, or the model has parents.
        """
        self._refuse_parents("delete")
        row = self.row(pk)
        every = tuple((column_of(row, f), b"", b"") for f in self.columns if not f.primary_key)
        return RowWrite(DELETE, row, every)

    def row(self, pk: Any) -> bytes:
        """Return what a row's fields are named by: its key and a separator.

        Raises:
            WriteBehindRefusedError: The model has no such keys.
        """
        field = self.model._meta.pk
        try:
            key = wire_of(field).dump(checked_value(field, pk)) if pk is not None else SEPARATOR
        except (ValidationError, ArithmeticError, AttributeError, TypeError, ValueError):
            key = SEPARATOR
        if SEPARATOR in key:
            message = f"{self.model.__name__} has no primary key like {pk!r}"
            raise WriteBehindRefusedError(message)
        return key + SEPARATOR

    def partition(self, row: bytes) -> Partition:
        """Return where a row's writes belong: always the same place, so they stay in order."""
        number = xxh3_64_intdigest(row[:-1]) % write_behind_options().partitions
        partition = self._partitions.get(number)
        if partition is None:
            partition = self._partitions[number] = Partition(self.model._meta.label_lower, number)
        return partition

    def names(self, row: bytes) -> list[bytes]:
        """Return every field that a batch may hold of a row."""
        columns = [column_of(row, field) for field in self.columns if not field.primary_key]
        return [row + SEPARATOR + MARKER] + [column + kind for column in columns for kind in KINDS]

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the fields that were named, a sentence each; the first use raises it."""
        for name in self._names:
            try:
                _managed_field(self.model, name)
            except (ImproperlyConfigured, WriteBehindRefusedError) as error:
                yield str(error)

    def are_counters(self, changes: Iterable[str]) -> bool:
        """Return whether these fields are only ever added to, so that no write of them can come too early."""
        return all(name in self._counters for name in changes)

    @cached_property
    def fields(self) -> dict[str, models.Field[Any, Any]]:
        """The fields that may be changed, by name and by column attribute."""
        fields = [_managed_field(self.model, name) for name in self._names]
        return {name: field for field in fields for name in (field.name, field.attname)}

    @cached_property
    def columns(self) -> list[models.Field[Any, Any]]:
        """The fields of the model's own table that hold a value of their own."""
        return [f for f in self.model._meta.local_concrete_fields if not getattr(f, "generated", False)]

    def _refuse_parents(self, verb: str) -> None:
        if self.model._meta.parents:
            message = (
                f"{self.model.__name__}.behind.{verb}(): its rows are parts of "
                f"{', '.join(parent.__name__ for parent in self.model._meta.parents)} too; use the ORM"
            )
            raise WriteBehindRefusedError(message)


def _managed_field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    """Return a model's column by its field's name.

    Raises:
        ImproperlyConfigured: There is none, or it cannot be written behind.
    """
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    own = field in model._meta.local_concrete_fields  # a parent's column is in the parent's table
    generated = getattr(field, "generated", False)
    if not own or not isinstance(field, models.Field) or field.primary_key or generated:
        message = f"{model.__name__}: {name!r} is not a column that can be written behind"
        raise ImproperlyConfigured(message)
    wire_of(field)
    return field


def _created(field: models.Field[Any, Any], instance: models.Model) -> bytes:
    """Return what travels of a new row's field."""
    value = field.pre_save(instance, True)
    if isinstance(value, DatabaseDefault):
        [made] = value.get_source_expressions()
        if not isinstance(made, Value):
            message = (
                f"{field}: its default is made by the database, which is asked only later; give it a value"
            )
            raise WriteBehindRefusedError(message)
        value = made.value
    kind, travels = write_of(field, value)
    if kind != PUT or not isinstance(travels, bytes):
        message = f"{field}: a row is created with values, not {value}"
        raise WriteBehindRefusedError(message)
    return travels


def column_of(row: bytes, field: models.Field[Any, Any]) -> bytes:
    """Return what the batch's fields of a row's column begin with."""
    return b"%b%b\0" % (row, str(field.column).encode())


def split_field(field: bytes) -> tuple[bytes, str, bytes]:
    """Return the row's key, the column and the kind of write that a batch's field is named by.

    Raises:
        WriteBehindDamagedError: It names no such thing.
    """
    key, *rest = field.split(SEPARATOR)
    if len(rest) != 2 or rest[1] not in _NAMED_KINDS or (rest[1] == MARKER) == bool(rest[0]):
        message = f"{field!r} names no row, column and kind of write"
        raise WriteBehindDamagedError(message)
    return key, rest[0].decode(errors="replace"), rest[1]

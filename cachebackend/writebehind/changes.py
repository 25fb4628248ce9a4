"""Writes as the manager takes them, validated and encoded as the queue folds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured, ValidationError
from django.db import models, router
from django.db.models.expressions import DatabaseDefault, Value
from xxhash import xxh3_64_intdigest

from cachebackend.errors import WriteBehindDamagedError, WriteBehindRefusedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.properties import cached_property
from cachebackend.protocol.queue import Change, Partition, RowWrite
from cachebackend.protocol.queue.encodings import DEFAULT_DATABASE, entry_of_database
from cachebackend.writebehind.encoding import clean_value, encoding_of
from cachebackend.writebehind.engines import engine_fault
from cachebackend.writebehind.exact_keys import key_fault_if_known
from cachebackend.writebehind.expressions import DELTA, KINDS, PUT, encode_change
from cachebackend.writebehind.queued_columns import mark_queued

__all__ = ["CHANGE", "CREATE", "DELETE", "MARKER", "SEPARATOR", "Rows", "split_field"]

#: What separates the parts of a field's name in a batch.
SEPARATOR = b"\0"
#: The operations of ``fold.lua``.
CHANGE, CREATE, DELETE = b"u", b"c", b"x"
#: The kind of the field, without a column, that creates or deletes a row before its changes.
MARKER = b"m"
_ALL_KINDS = frozenset({*KINDS, MARKER})


class Rows:
    """The rows of a model in the queue: their names, their partitions, and their encoded writes.

    Args:
        model: The rows' model.
        fields: The fields that may be changed.
        counters: Those of them that are only ever added to.
        updates_only: Whether rows are never created or deleted behind.
    """

    def __init__(
        self,
        model: type[models.Model],
        fields: Sequence[str],
        counters: Sequence[str],
        updates_only: bool = False,
    ) -> None:
        self.model = model
        self.updates_only = updates_only
        self._names = tuple(fields)
        self._counters = tuple(counters)
        #: The database to which the routers sent the rows of the first write; None: nothing is written yet.
        self._using: str | None = None
        self._has_exact_key = False
        self._partitions: dict[tuple[int, int], Partition] = {}
        if unknown := set(counters) - set(fields):
            message = f"{model.__name__}: counters must be among fields, and {sorted(unknown)} are not"
            raise ImproperlyConfigured(message)

    def change(self, pk: Any, changes: Mapping[str, Any]) -> RowWrite:
        """Return the write that changes a row.

        Raises:
            WriteBehindRefusedError: A change is not supported or not valid.
        """
        if not changes:
            message = f"{self.model.__name__}.behind.update() was given nothing to change"
            raise WriteBehindRefusedError(message)
        row = self.row(pk)
        encoded: dict[str, Change] = {}
        encodings: list[bytes] = []
        for name, change in changes.items():
            field = self.fields.get(name)
            if field is None:
                message = (
                    f"{self.model.__name__}.{name} is not written behind; add it to "
                    f"WriteBehindManager(fields=[…]), which has {', '.join(self._names)}"
                )
                raise WriteBehindRefusedError(message)
            if field.attname in encoded:
                message = f"{self.model.__name__}.{name} is given twice, once by its column's name"
                raise WriteBehindRefusedError(message)
            kind, value = encode_change(field, change)
            if kind != DELTA and field.name in self._counters:
                message = f"{self.model.__name__}.{name} is a counter: it takes only F({name!r}) ± n"
                raise WriteBehindRefusedError(message)
            encoded[field.attname] = (column_prefix(row, field), kind, value)
            encodings.append(encoding_of(field).entry)
        return RowWrite(CHANGE, row, tuple(encoded.values()), self._with_database(encodings))

    def create(self, values: Mapping[str, Any]) -> tuple[RowWrite, models.Model]:
        """Return the write that creates a row with values and the fields' defaults, and the row itself.

        Raises:
            WriteBehindRefusedError: A value is not valid, or the model has parents or takes updates only.
        """
        self._require_whole_rows("create")
        key = self.model._meta.pk
        pk = next((values[name] for name in ("pk", key.name, key.attname) if name in values), None)
        if pk is None and not key.has_default():
            message = (
                f"{self.model.__name__}.behind.create() needs the primary key, because the database sees the "
                "row only later: give pk=…, or give the key field a default such as cachebackend.uuid7"
            )
            raise WriteBehindRefusedError(message)
        try:
            instance = self.model(**values)
        except (TypeError, ValueError) as error:
            raise_interrupt(error)
            message = f"{self.model.__name__}.behind.create(): {error}"
            raise WriteBehindRefusedError(message) from error
        row = self.row(instance.pk)
        instance.pk = encoding_of(key).decode(row[:-1])
        changes: list[Change] = []
        encodings: list[bytes] = []
        for field in self.columns:
            if not field.primary_key:
                encoded = _created(field, instance)
                encodings.append(encoding_of(field).entry)
                setattr(instance, field.attname, encoding_of(field).decode_put(encoded))
                changes.append((column_prefix(row, field), PUT, encoded))
        instance._state.adding = False
        instance._state.db = router.db_for_write(self.model)
        mark_queued(instance, [field.attname for field in self.columns])
        return RowWrite(CREATE, row, tuple(changes), self._with_database(encodings)), instance

    def delete(self, pk: Any) -> RowWrite:
        """Return the write that deletes a row.

        Raises:
            WriteBehindRefusedError: The value is not a valid key, or the model has parents or takes
                updates only.
        """
        self._require_whole_rows("delete")
        row = self.row(pk)
        columns = tuple((column_prefix(row, f), b"", b"") for f in self.columns if not f.primary_key)
        entry = encoding_of(self.model._meta.pk).entry  # a batch of deletions names its database too
        return RowWrite(DELETE, row, columns, self._with_database([entry]))

    def row(self, pk: Any) -> bytes:
        """Return the prefix of a row's field names: its encoded key and a separator.

        Raises:
            WriteBehindRefusedError: The value is not a valid primary key of the model, its keys
                cannot be queued, or its database is not Postgres.
        """
        if (using := router.db_for_write(self.model)) != self._using:
            self._require_one_database(using)
        if not self._has_exact_key:
            self._require_exact_key()
        field = self.model._meta.pk
        try:
            key = encoding_of(field).encode(clean_value(field, pk)) if pk is not None else SEPARATOR
        except (ValidationError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise_interrupt(error)
            key = SEPARATOR
        if SEPARATOR in key:
            message = f"{self.model.__name__} has no primary key like {pk!r}"
            raise WriteBehindRefusedError(message)
        return key + SEPARATOR

    def partition(self, row: bytes, count: int) -> Partition:
        """Return the partition of a row, of a number of partitions."""
        number = xxh3_64_intdigest(row[:-1]) % count
        partition = self._partitions.get((number, count))
        if partition is None:
            partition = Partition(self.model._meta.label_lower, number, count)
            self._partitions[number, count] = partition
        return partition

    def names(self, row: bytes) -> list[bytes]:
        """Return the names of all fields that a batch may hold of a row."""
        columns = [column_prefix(row, field) for field in self.columns if not field.primary_key]
        return [row + SEPARATOR + MARKER] + [column + kind for column in columns for kind in KINDS]

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each field that cannot be written behind; the first use raises it.

        They are the primary key, which every write needs, and the named fields.
        """
        try:
            encoding_of(self.model._meta.pk)
        except WriteBehindRefusedError as error:
            yield str(error)
        for name in self._names:
            try:
                _managed_field(self.model, name)
            except (ImproperlyConfigured, WriteBehindRefusedError) as error:
                yield str(error)

    def are_counters(self, changes: Iterable[str]) -> bool:
        """Return whether all these fields are counters, whose changes may be applied in any order."""
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

    def _with_database(self, entries: list[bytes]) -> list[bytes]:
        """Return the entries of encodings with the alias of the rows' database, unless it is the default."""
        using = self._using
        if using is None or using == DEFAULT_DATABASE:
            return entries
        return [entry_of_database(entry, using) for entry in entries]

    def _require_one_database(self, using: str) -> None:
        """Raise if the routers send the rows to another database than before, as for another tenant.

        A drain asks the routers too, in a process that knows no tenant. Of two tenants that have a process
        each, it refuses the batches of the other one.
        """
        if self._using is not None:
            message = (
                f"{self.model.__name__}: the database routers send its rows to {self._using!r} and to "
                f"{using!r}, and write-behind drains them to one database; write them with save()"
            )
            raise WriteBehindRefusedError(message)
        self._using = using

    def _require_exact_key(self) -> None:
        fault = engine_fault(self.model, router.db_for_write(self.model))
        if fault:
            raise WriteBehindRefusedError(fault)
        fault, is_known = key_fault_if_known(self.model)
        if fault:
            raise WriteBehindRefusedError(fault)
        self._has_exact_key = is_known

    def _require_whole_rows(self, verb: str) -> None:
        if self.updates_only:
            message = (
                f"{self.model.__name__}.behind.{verb}(): its manager has updates_only=True; use the ORM, or "
                "remove the option"
            )
            raise WriteBehindRefusedError(message)
        if self.model._meta.parents:
            message = (
                f"{self.model.__name__}.behind.{verb}(): its rows are also rows of "
                f"{', '.join(parent.__name__ for parent in self.model._meta.parents)}; use the ORM"
            )
            raise WriteBehindRefusedError(message)


def _managed_field(model: type[models.Model], name: str) -> models.Field[Any, Any]:
    """Return the field of a model's own column that can be written behind.

    Raises:
        ImproperlyConfigured: There is no such field, or it cannot be written behind.
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
    encoding_of(field)
    return field


def _created(field: models.Field[Any, Any], instance: models.Model) -> bytes:
    """Return the encoded value of a field of a new row."""
    value = field.pre_save(instance, True)
    if isinstance(value, DatabaseDefault):
        [default] = value.get_source_expressions()
        if not isinstance(default, Value):
            message = (
                f"{field}: its default is made by the database, which is asked only later; give it a value"
            )
            raise WriteBehindRefusedError(message)
        value = default.value
    kind, encoded = encode_change(field, value)
    if kind != PUT or not isinstance(encoded, bytes):
        message = f"{field}: a row is created with values, not {value}"
        raise WriteBehindRefusedError(message)
    return encoded


def column_prefix(row: bytes, field: models.Field[Any, Any]) -> bytes:
    """Return the prefix of a column's field names in a batch: row and column."""
    return b"%b%b\0" % (row, str(field.column).encode())


def split_field(field: bytes) -> tuple[bytes, str, bytes]:
    """Return the row's key, the column and the kind of write from a field's name in a batch.

    Raises:
        WriteBehindDamagedError: The name is not valid.
    """
    key, *rest = field.split(SEPARATOR)
    if len(rest) != 2 or rest[1] not in _ALL_KINDS or (rest[1] == MARKER) == bool(rest[0]):
        message = f"{field!r} names no row, column and kind of write"
        raise WriteBehindDamagedError(message)
    return key, rest[0].decode(errors="replace"), rest[1]

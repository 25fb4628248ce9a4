"""Outbox rows that the database writes: they hold the columns of changed rows as text, and no keys.

Triggers write such rows, and statements that write their own outbox row (``statement_outbox``).

A table may hold values that Python cannot read, such as the date ``infinity`` or a date before the
year 1. Reading a lookup never raises. It is None instead: nothing can be cached under a value that no
reader can ask for. But a row whose primary key cannot be read is not known: ``outbox_keys`` says what
follows.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from django.apps import apps
from django.conf import settings
from django.db import connections, models
from django.utils.timezone import get_default_timezone, is_aware, make_naive

from cachebackend.backend.canonical import django_class, referred_field
from cachebackend.backend.open_transactions import OpenTransaction
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.query_changes import ValueChange
from cachebackend.invalidation.row_texts import TextRow, value_changes
from cachebackend.invalidation.tables import watched_tables
from cachebackend.invalidation.watched import KeysByAlias
from cachebackend.models import OutboxRow

__all__ = [
    "WROTE",
    "ChangedRows",
    "has_triggers",
    "keys_of_trigger_row",
    "may_have_trigger_rows",
    "record_triggers",
    "rows_of_texts",
    "take_trigger_rows",
    "triggered_models",
]

logger = logging.getLogger("cachebackend")
#: A byte of a ``bytea`` that is escaped: a backslash, or three octal digits.
_ESCAPED = re.compile(rb"\\(\\|[0-7]{3})")
#: The setting of a transaction that its triggers turn on if they write outbox rows.
WROTE = "ringcache.wrote"
#: The models of this process whose tables have triggers.
_triggered: set[type[models.Model]] = set()
AnyField: TypeAlias = "models.Field[Any, Any]"


class ChangedRows(NamedTuple):
    """The changed rows that an outbox row names.

    Attributes:
        model: The model to whose own table they belong.
        rows: Their states, by attribute name; None: it is not known which rows have changed.
        changes: What the states change for results of queries over that table.
    """

    model: type[models.Model]
    rows: list[dict[str, Any]] | None
    changes: Sequence[ValueChange]


def record_triggers(model: type[models.Model]) -> None:
    """Record that a model's table has triggers that write outbox rows."""
    _triggered.add(model)


def has_triggers(model: type[models.Model]) -> bool:
    """Return whether a model's table has triggers that write outbox rows."""
    return model in _triggered


def triggered_models() -> list[type[models.Model]]:
    """Return the models whose tables have triggers that write outbox rows."""
    return sorted(_triggered, key=lambda model: model._meta.label)


def keys_of_trigger_row(label: str, rows: Iterable[TextRow], using: str) -> KeysByAlias:
    """Return the keys that are wrong because rows of a model changed in a database.

    Raises as ``_changed_rows``.
    """
    deletes = PendingDeletes(using)
    deletes.add_states(*_changed_rows(label, rows, using))
    return deletes.keys


def may_have_trigger_rows(using: str) -> bool:
    """Return whether triggers have written outbox rows in the open transaction that nobody has taken yet.

    The triggers say so in a setting, which Postgres reverts with their rows if a savepoint is rolled
    back. To look into the outbox instead would need rights on it, and would make SERIALIZABLE
    transactions conflict that write nothing in common. (A SELECT without FROM would count as a change.)
    After ``RESET ALL`` the setting says nothing, and the outbox must be looked into.
    """
    connection = connections[using]
    if not _triggered or connection.vendor != "postgresql" or not has_outbox(using):
        return False
    if OpenTransaction.of(connection).has_reset_settings:
        return True
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT setting = 'on' FROM current_setting('{WROTE}', true) AS setting")
        [has_written] = cursor.fetchone()
    return bool(has_written)  # None: nothing in this session has made the setting


def take_trigger_rows(using: str, *, leave: bool = False) -> Iterator[ChangedRows]:
    """Yield the changed rows that triggers named in the open transaction, and delete their outbox rows.

    The caller must write the keys of these rows to the outbox in the same transaction. An outbox row
    that cannot be read is left to the relay: the transaction must not fail because of it.

    Args:
        using: The database alias.
        leave: Leave the outbox rows to the relay.
    """
    connection = connections[using]
    quote = connection.ops.quote_name
    table, pk = quote(OutboxRow._meta.db_table), quote(str(OutboxRow._meta.pk.column))
    changed: dict[int, ChangedRows] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {pk}, label, rows::text, set_config('{WROTE}', '', true) FROM {table} "
            "WHERE transaction_id = pg_current_xact_id_if_assigned()::text::bigint"
        )
        for key, label, rows, _ in cursor.fetchall():
            try:
                changed[key] = _changed_rows(label, rows and json.loads(rows), using)
            except Exception as error:  # noqa: BLE001  # a row of triggers may hold anything
                raise_interrupt(error)
                logger.warning("the relay handles a change of %r, which cannot be read: %r", label, error)
        if changed and not leave:
            cursor.execute(f"DELETE FROM {table} WHERE {pk} = ANY(%s)", [list(changed)])
    yield from changed.values()


def _changed_rows(label: str, rows: Iterable[TextRow] | None, using: str) -> ChangedRows:
    """Return a model with its changed rows.

    Raises:
        LookupError: The project has no such model.
        ValueError: A row cannot be named: its primary key is missing, or cannot be read.
        Exception: The rows have another form than the triggers write.
    """
    model = apps.get_model(label)
    if rows is None:
        return ChangedRows(model, None, ())
    texts = list(rows)
    states = rows_of_texts(model, texts, using)
    has_results = any(table.result_aliases for table in watched_tables(model._meta.db_table))
    return ChangedRows(model, states, list(value_changes(model, states, texts, using)) if has_results else ())


def rows_of_texts(model: type[models.Model], rows: Iterable[TextRow], using: str) -> list[dict[str, Any]]:
    """Return rows with the values that Django reads, from the texts of their columns.

    Raises as ``_changed_rows``.
    """
    fields = {field.attname: field for field in model._meta.concrete_fields}
    readers: dict[str, Callable[[str], Any]] = {}
    keys = [field.attname for field in model._meta.pk_fields]
    found = []
    for texts in rows:
        row: dict[str, Any] = {}
        for name, text in texts.items():
            if name in fields:
                if name not in readers:
                    readers[name] = _reader(fields[name], using)
                row[name] = None if text is None else readers[name](text)
        for name in keys:
            if name not in row or (row[name] is None and texts[name] is not None):
                message = f"the primary key {name!r} is {texts.get(name)!r:.100}, which cannot be read"
                raise ValueError(message)
        row["pk"] = tuple(row[name] for name in keys) if len(keys) > 1 else row[keys[0]]
        found.append(row)
    return found


def _reader(field: AnyField, using: str) -> Callable[[str], Any]:
    """Return what reads the text of a column: the value that Django reads, or None if it cannot be read.

    First comes what the driver would return for the column, and then what the field makes of that.
    """
    connection, column = connections[using], field.get_col(field.model._meta.db_table)
    value_of, converters = _driver_reader(field), column.get_db_converters(connection)

    def read(text: str) -> Any:
        try:
            value = value_of(text)
            for convert in converters:
                value = convert(value, column, connection)
        except Exception as error:  # a field of the project may raise anything
            raise_interrupt(error)
            logger.debug("a trigger wrote %r for %s, which cannot be read", text, field, exc_info=True)
            return None
        return value

    return read


def _driver_reader(field: AnyField) -> Callable[[str], Any]:
    """Return what makes the driver's value of a column from its text in JSON."""
    referred = referred_field(field)
    if referred is not None:
        return _driver_reader(referred)
    kind = django_class(type(field))
    if issubclass(kind, models.BooleanField):
        return {"true": True, "false": False}.__getitem__
    if issubclass(kind, models.BinaryField):
        return _bytes
    if issubclass(kind, models.IntegerField):
        return int
    return partial(_python_value, kind, field)


def _python_value(kind: type[AnyField], field: AnyField, text: str) -> Any:
    if issubclass(kind, models.DateTimeField) and (moment := _moment_at_an_end(text)) is not None:
        return moment if settings.USE_TZ else make_naive(moment, get_default_timezone())
    value: Any = kind.to_python(field, text)
    if not isinstance(value, datetime) or not is_aware(value):
        return value
    # As Django reads it; the session of the statement may have had another time zone
    return value.astimezone(UTC) if settings.USE_TZ else make_naive(value, get_default_timezone())


def _moment_at_an_end(text: str) -> datetime | None:
    """Return a moment of the years 1 to 9999 that the zone of the statement's session moves out of them.

    A reader in another zone may ask for such a moment. Every 400 years the calendar repeats itself.
    """
    if text.startswith("10000-"):
        year, rest, shift = 2000, text.removeprefix("10000"), 8000
    elif text.startswith("0001-") and text.endswith(" BC"):  # the year before the year 1
        year, rest, shift = 400, text.removeprefix("0001").removesuffix(" BC"), -400
    else:
        return None
    moment = datetime.fromisoformat(f"{year:04}{rest}")
    if moment.tzinfo is None:
        return None
    moment = moment.astimezone(UTC)
    return moment.replace(year=moment.year + shift)


def _bytes(text: str) -> bytes:
    """Return a ``bytea``, in either of the forms that ``bytea_output`` may have."""
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) if found[1] != b"\\" else 92]), text.encode())

"""The keys that an outbox row deletes, also of a row that cannot be read.

A row may be damaged, may come from a newer release, or may hold what a database can store and Python
cannot. It must not stop the other rows, and it must not be ignored: a change would stay cached. So it
means everything that it can mean: a trigger's row everything that is cached of its model, any other
row every key of every alias. The relay deletes that once, and sets the row aside.

The model of a trigger's row may not exist in this project: it is gone, or only a newer release has it.
Nothing that this process reads is cached of it. The relay sets such rows aside too, as one row without
columns, which means everything that is cached of the model. A process that has the model handles it.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, NamedTuple

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connections, models, transaction
from django.db.models import Case, F, Func, Q, QuerySet, Value, When
from django.db.models.functions import Cast, Coalesce, Length, Now

from cachebackend.backend import find_ring_cache
from cachebackend.backend.keys import pattern_key
from cachebackend.conf import ring_aliases
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.query_changes import check_changes
from cachebackend.invalidation.stored_keys import unpack_keys
from cachebackend.invalidation.tables import models_of_tables
from cachebackend.invalidation.trigger_rows import keys_of_trigger_row, triggered_models
from cachebackend.invalidation.watched import KeysByAlias
from cachebackend.models import OutboxRow

__all__ = [
    "MAX_ROW_BYTES",
    "OLDEST",
    "UNKNOWN_MODEL",
    "RowKeys",
    "keys_of_row",
    "pending_rows",
    "read_row",
    "savepoint",
    "stored_rows",
]

#: The error of a row whose model this project does not have.
UNKNOWN_MODEL = "the project has no model of this name"
#: A row that claims to be older, or from the future, has a time that says nothing about its age.
OLDEST = timedelta(days=36_500)
#: The most bytes of a row that are read, as it is without compression: the keys of 100,000 rows of a table.
MAX_ROW_BYTES = 8 * 1024**2
#: The bytes that a row's JSON may have without compression, from its stored size: Postgres compresses 255
#: bytes into one at most, and asking for the exact size would decompress it.
_POSTGRES_BYTES = """
    CASE WHEN pg_column_compression(%(expressions)s) IS NULL THEN pg_column_size(%(expressions)s)
    ELSE LEAST(pg_column_size(%(expressions)s)::bigint * 255, %(most)s) END
"""
#: The text of a row's JSON if it is an array that is short and holds no numbers: ``1e100000`` is short as it
#: is stored, and long as a text. A trigger writes texts only. (To concatenate an empty array costs nothing.)
_POSTGRES_TEXT = """
    CASE WHEN jsonb_typeof(%(expressions)s) <> 'array' THEN NULL
    WHEN pg_column_size(%(expressions)s || '[]'::jsonb) > %(most)s THEN NULL
    WHEN jsonb_path_exists(%(expressions)s, 'strict $.** ? (@.type() == "number")') THEN NULL
    ELSE %(expressions)s::text END
"""


class RowKeys(NamedTuple):
    """What an outbox row deletes.

    Attributes:
        keys: The keys by cache alias; no keys for the aliases of a node's row.
        error: Why the row cannot be read, and ``keys`` are everything that it can mean; empty: it can.
    """

    keys: KeysByAlias
    error: str = ""


def stored_rows(using: str) -> QuerySet[OutboxRow]:
    """Return the outbox rows of a database, in a form in which they can be fetched with any content.

    Python reads neither every time of Postgres nor every number of its JSON, and one row that cannot be
    fetched would hide all others. So ``rows`` comes as ``rows_text``, and ``created`` as ``age``. A row may
    be of any length: ``keys`` come as ``packed_keys``, which are empty, like ``rows_text``, if the row's
    ``size`` is more than ``MAX_ROW_BYTES``. The database must not expand what a row holds before its length
    is known. So ``size`` is made from what is stored, and ``rows_text`` is empty too if the text may be
    long; ``has_rows`` says whether there is one. ``fault`` is empty: see ``outbox_pages.fetch_rows``.
    """
    is_past = Q(created__gt=Now() - OLDEST, created__lte=Now())
    duration = models.DurationField()
    age = Case(When(is_past, then=Now() - F("created")), default=timedelta(0), output_field=duration)
    text, integer = models.TextField(), models.BigIntegerField()
    if connections[using].vendor == "postgresql":
        rows_text: Any = Func("rows", template=_POSTGRES_TEXT, output_field=text, most=MAX_ROW_BYTES)
        rows_bytes: Any = Func("rows", template=_POSTGRES_BYTES, output_field=integer, most=MAX_ROW_BYTES)
    else:  # the others store a text, or one that is hardly shorter
        rows_text = Cast("rows", text)
        rows_bytes = Length(rows_text)
    stored = OutboxRow.objects.using(using).defer("rows", "created", "keys")
    stored = stored.annotate(age=age, size=Length("keys") + Coalesce(rows_bytes, 0, output_field=integer))
    fits = Q(size__lte=MAX_ROW_BYTES)
    return stored.annotate(
        fault=Value(""),
        has_rows=Q(rows__isnull=False),
        packed_keys=Case(When(fits, then=F("keys")), output_field=models.BinaryField()),
        rows_text=Case(When(fits, then=rows_text), output_field=models.TextField()),
    )


def pending_rows(using: str) -> QuerySet[OutboxRow]:
    """Return the rows that this process must handle, as ``stored_rows`` does: those not set aside.

    A row of a model that another process did not know is pending for a process that knows it.
    """
    labels = [model._meta.label_lower for model in {*triggered_models(), *models_of_tables()}]
    return stored_rows(using).filter(Q(error="") | Q(error=UNKNOWN_MODEL, label__in=labels))


def read_row(row: Any) -> RowKeys:
    """Return what a stored row deletes, and why it cannot be read, if it cannot.

    Args:
        row: A row of ``stored_rows``.

    Raises:
        OperationalError, InterfaceError: The database failed; the row may be readable.
    """
    try:
        with savepoint(_using(row)) if row.label else nullcontext():  # a query for a row's children may fail
            return RowKeys(keys_of_row(row))
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:  # noqa: BLE001  # a damaged row, or a field of the project, may raise anything
        raise_interrupt(error)
        model = _model_of(row)
        if row.label and model is None:
            return RowKeys({}, UNKNOWN_MODEL)
        return RowKeys(
            _everything_of_aliases(row) if model is None else _everything_of_model(model, _using(row)),
            f"{type(error).__name__}: {error}",
        )


def keys_of_row(row: Any) -> KeysByAlias:
    """Return the keys that a stored row deletes, by cache alias. Raises anything if it cannot be read."""
    if row.fault:
        raise ValueError(row.fault)
    if row.size > MAX_ROW_BYTES:
        message = f"the row has {row.size:,} bytes, more than {MAX_ROW_BYTES:,}"
        raise ValueError(message)
    if not row.label:
        keys = unpack_keys(bytes(row.packed_keys))
        for group in keys.values():
            check_changes(group)
        return keys
    if not row.has_rows:
        return _everything_of_model(apps.get_model(row.label), _using(row))
    if row.rows_text is None:
        message = (
            f"the changed rows are not an array, hold numbers, or have more than {MAX_ROW_BYTES:,} bytes"
        )
        raise ValueError(message)
    return keys_of_trigger_row(row.label, json.loads(row.rows_text), _using(row))


def _everything_of_model(model: type[models.Model], using: str) -> KeysByAlias:
    """Return keys that stand for everything that is cached of a model's rows."""
    deletes = PendingDeletes(using)
    deletes.add_model(model)
    return deletes.keys


def _everything_of_aliases(row: OutboxRow) -> KeysByAlias:
    """Return keys that stand for every key of every alias; for a node's row, only the aliases."""
    caches = {alias: cache for alias in ring_aliases() if (cache := find_ring_cache(alias)) is not None}
    if row.node:
        return {alias: set() for alias in caches}
    return {
        alias: {pattern_key(cache.pattern, is_tag=False), pattern_key(cache.tag_pattern, is_tag=True)}
        for alias, cache in caches.items()
        if cache.can_clear
    }


def _model_of(row: OutboxRow) -> type[models.Model] | None:
    try:
        return apps.get_model(row.label)
    except (LookupError, ValueError) as error:
        raise_interrupt(error)
        return None


def _using(row: OutboxRow) -> str:
    return row._state.db or DEFAULT_DB_ALIAS


def savepoint(using: str) -> AbstractContextManager[None]:
    """Roll back what a failed query does to an open transaction; without one there is nothing to do."""
    return transaction.atomic(using=using) if connections[using].in_atomic_block else nullcontext()

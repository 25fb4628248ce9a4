"""Rows that triggers saw change, as the outbox has them: from columns as text to keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from django.apps import apps
from django.db import connections, models
from django.utils.timezone import is_aware

from cachebackend.invalidation.watched import dependents_of
from cachebackend.models import OutboxRow

__all__ = [
    "Caught",
    "adopt_caught",
    "caught_of",
    "has_triggers",
    "keys_of_caught",
    "note_triggers",
    "triggered_models",
]

logger = logging.getLogger("cachebackend")
#: Models whose tables have triggers, by this process' models.
_triggered: set[type[models.Model]] = set()
#: A model, and rows of it that changed.
Caught: TypeAlias = tuple[type[models.Model], list[dict[str, Any]]]


def note_triggers(model: type[models.Model]) -> None:
    """Note that a model's table has triggers that write outbox rows."""
    _triggered.add(model)


def has_triggers(model: type[models.Model]) -> bool:
    """Return whether a model's table has triggers that write outbox rows."""
    return model in _triggered


def triggered_models() -> list[type[models.Model]]:
    """Return the models whose tables have such triggers."""
    return sorted(_triggered, key=lambda model: model._meta.label)


def keys_of_caught(label: str, rows: Iterable[Mapping[str, str | None]]) -> dict[str, set[bytes]]:
    """Return the keys that changed rows make wrong, by cache alias.

    A model that is no longer there has none: nobody can read what was cached of it.
    """
    keys: dict[str, set[bytes]] = {}
    for model, changed in _models_rows([(label, rows)]):
        for _, dependent in dependents_of(model):
            keys.setdefault(dependent.alias, set()).update(dependent.keys_of(changed))
    return keys


def adopt_caught(using: str) -> Iterator[Caught]:
    """Take what triggers wrote in the open transaction out of the outbox; yield models and changed rows.

    The caller owes them from now on, in the same transaction.
    """
    connection = connections[using]
    if not _triggered or connection.vendor != "postgresql":
        return
    table = connection.ops.quote_name(OutboxRow._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {table} WHERE transaction_id = pg_current_xact_id_if_assigned()::text::bigint "
            "RETURNING label, rows::text"
        )
        taken = cursor.fetchall()
    yield from _models_rows((label, json.loads(rows)) for label, rows in taken)


def caught_of(
    using: str, model: type[models.Model], rows: Iterable[Mapping[str, Any]]
) -> tuple[list[int], list[Caught]]:
    """Return the outbox rows that triggers wrote of rows that were just written, and what they name.

    Whoever deletes the keys of all that they name may drop them: they are committed.
    """
    tables = [
        table
        for kin in (model, *model._meta.get_parent_list())
        if has_triggers(table := kin._meta.concrete_model or kin)
    ]
    if not tables or connections[using].vendor != "postgresql":
        return [], []
    named = models.Q()
    for row in rows:
        for table in tables:
            text = {table._meta.pk.attname: str(row["pk"])}
            named |= models.Q(label=table._meta.label_lower, rows__contains=[text])
    found = list(OutboxRow.objects.using(using).filter(named) if named else ())
    return [row.pk for row in found], list(_models_rows((row.label, row.rows or []) for row in found))


def _models_rows(
    caught: Iterable[tuple[str, Iterable[Mapping[str, str | None]]]],
) -> Iterator[Caught]:
    for label, rows in caught:
        try:
            model = apps.get_model(label)
        except LookupError:
            logger.warning("a trigger named the model %s, which is not there; drop the trigger", label)
            continue
        fields = {field.attname: field for field in model._meta.concrete_fields}
        yield model, [_row(model, fields, row) for row in rows]


def _row(
    model: type[models.Model], fields: Mapping[str, models.Field[Any, Any]], texts: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return a row as Django has it, of what a trigger wrote of it."""
    row = {name: _value(fields[name], text) for name, text in texts.items() if name in fields}
    return row | {"pk": row.get(model._meta.pk.attname)}


def _value(field: models.Field[Any, Any], text: str | None) -> Any:
    value = None if text is None else field.to_python(text)
    # In the zone that rows are read in; the session of the statement may have another
    return value.astimezone(UTC) if isinstance(value, datetime) and is_aware(value) else value

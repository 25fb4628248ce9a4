"""Statement triggers for changes that Django does not see: raw SQL, other programs, COPY, cascades.

Each statement writes the primary keys and lookup values of the changed rows, old and new, into
the outbox, in its own transaction, and notifies the relay. It also says so in a setting of the
transaction, so that no other transaction looks into the outbox. A trigger makes no cache keys: the
process that handles its outbox row makes them. This module needs django-pgtrigger, so it is
imported only if a manager asks for triggers.
"""

from __future__ import annotations

from typing import Any, cast

import pgtrigger
from django.apps import apps
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.invalidation.relay_listener import CHANNEL
from cachebackend.invalidation.trigger_rows import WROTE, has_triggers, record_triggers
from cachebackend.invalidation.watched import all_dependents, is_historical, shares_rows
from cachebackend.models import OutboxRow

__all__ = ["ROWS_PER_OUTBOX_ROW", "OutboxTrigger", "add_triggers"]

#: Changed rows that one outbox row names at most; this bounds the memory that the relay needs.
ROWS_PER_OUTBOX_ROW = 1000

_BODY = """
    IF outbox IS NULL THEN
        RAISE WARNING 'ringcache: the outbox table {outbox} is missing, so a change of {label} is not told';
        RETURN NULL;
    END IF;
    FOR chunk IN
        SELECT jsonb_agg(numbered.texts)
        FROM (
            SELECT changed.texts, (row_number() OVER () - 1) / {limit} AS number
            FROM ({changed}) AS changed
        ) AS numbered
        GROUP BY numbered.number
    LOOP
        EXECUTE format(
            'INSERT INTO %s (keys, node, is_intent, label, rows, transaction_id) '
            'VALUES ('''', '''', false, $1, $2, pg_current_xact_id()::text::bigint)', outbox
        ) USING '{label}', chunk;
        PERFORM pg_notify('{channel}', ''), set_config('{wrote}', 'on', true);
    END LOOP;
    RETURN NULL;
"""


class OutboxTrigger(pgtrigger.Trigger):
    """The trigger for one kind of statement on a model's table.

    Args:
        operation: The kind of statement.
        sources: The transition tables from which the trigger reads the statement's rows. None for
            TRUNCATE: its trigger runs before the statement and reads the table itself.
    """

    def __init__(self, operation: pgtrigger.Operation, *sources: str) -> None:
        self.sources = sources
        transition_tables = {name.partition("_")[0]: name for name in sources}
        super().__init__(
            name=f"ringcache_{str(operation).lower()}",
            level=pgtrigger.Statement,
            when=pgtrigger.After if sources else pgtrigger.Before,
            operation=operation,
            referencing=pgtrigger.Referencing(**transition_tables) if sources else None,  # type: ignore[no-untyped-call]
        )

    def get_declare(self, model: models.Model) -> list[tuple[str, str]]:
        """Return the variables of the trigger's function. pgtrigger calls it.

        The function looks for the outbox in the schema of the changed table first: the search
        path of another program may not contain it.
        """
        table = OutboxRow._meta.db_table
        in_schema = f"to_regclass(format('%I.%I', TG_TABLE_SCHEMA, '{table}'))"
        return [("outbox", f"regclass := COALESCE({in_schema}, to_regclass('{table}'))"), ("chunk", "jsonb")]

    def get_func(self, model: models.Model) -> str:
        """Return the body of the trigger's function. pgtrigger calls it when all models are loaded."""
        columns = _columns(model)
        texts = ", ".join(f"'{name}', to_jsonb({_quoted(column)}) #>> '{{}}'" for name, column in columns)
        sources = self.sources or (_quoted(model._meta.db_table),)
        row = f"jsonb_build_object({texts})"
        changed = " UNION ".join(f"SELECT {row} AS texts FROM {source}" for source in sources)
        return _BODY.format(
            outbox=OutboxRow._meta.db_table,
            label=model._meta.label_lower,
            limit=ROWS_PER_OUTBOX_ROW,
            changed=changed,
            channel=CHANNEL,
            wrote=WROTE,
        )


def add_triggers(model: type[models.Model]) -> None:
    """Add the triggers to a model's table and to those of its parents, once the model is prepared."""
    if model._meta.concrete_model is not None:  # Django sets it after the attributes of the class
        _add(sender=model)
    else:
        class_prepared.connect(_add, sender=model, dispatch_uid=f"ringcache:triggers:{model._meta.label}")


def _add(*, sender: type[models.Model], **_: Any) -> None:
    for part in (sender, *sender._meta.get_parent_list()):
        table = part._meta.concrete_model or part
        if not has_triggers(table):
            record_triggers(table)
            pgtrigger.register(
                OutboxTrigger(pgtrigger.Insert, "new_rows"),
                OutboxTrigger(pgtrigger.Update, "old_rows", "new_rows"),
                OutboxTrigger(pgtrigger.Delete, "old_rows"),
                OutboxTrigger(pgtrigger.Truncate),
            )(table)


def _columns(model: models.Model) -> list[tuple[str, str]]:
    """Return the table's columns that keys are made of: attribute and column names, in the model's order.

    pgtrigger annotates the model as an instance, but passes a class: for ``makemigrations`` that of
    a migration's state, which nothing is registered for, so the project's model is looked up.
    """
    table = cast("type[models.Model]", model)
    if is_historical(table):
        table = apps.get_model(table._meta.label)
    # All dependents: where migrations are made without a ring, the SQL must be the same
    key_fields = {
        name
        for watched, dependent in all_dependents()
        if shares_rows(watched, table)
        for name in dependent.fields
    }
    return [
        (field.attname, field.column)
        for field in table._meta.local_concrete_fields
        if field.column is not None and (field.primary_key or field.attname in key_fields)
    ]


def _quoted(name: str) -> str:
    return f'"{name}"'

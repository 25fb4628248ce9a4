"""Statement triggers that catch what Django does not see: raw SQL, other programs, COPY, cascades.

Each statement writes the changed rows' primary keys and lookup values, old and new, into
the outbox, in its own transaction, and wakes the relay. Keys are made by the relay alone.
Imports django-pgtrigger, so it is imported only where triggers are asked for.
"""

from __future__ import annotations

from typing import Any, cast

import pgtrigger
from django.apps import apps
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.invalidation.relay_listener import CHANNEL
from cachebackend.invalidation.trigger_rows import has_triggers, note_triggers
from cachebackend.invalidation.watched import dependents_of
from cachebackend.models import OutboxRow

__all__ = ["ROWS_PER_OUTBOX_ROW", "OutboxTrigger", "add_triggers"]

#: Changed rows that one outbox row names at most: what the relay holds in memory is bounded.
ROWS_PER_OUTBOX_ROW = 1000

_BODY = """
    IF outbox IS NULL THEN
        RAISE WARNING 'ringcache: the outbox table {outbox} is missing, so a change of {label} is not told';
        RETURN NULL;
    END IF;
    FOR chunk IN
        SELECT jsonb_agg(numbered.texts)
        FROM (
            SELECT changed.texts, (row_number() OVER () - 1) / {most} AS number
            FROM ({changed}) AS changed
        ) AS numbered
        GROUP BY numbered.number
    LOOP
        EXECUTE format(
            'INSERT INTO %s (keys, node, is_intent, label, rows, transaction_id) '
            'VALUES ('''', '''', false, $1, $2, pg_current_xact_id()::text::bigint)', outbox
        ) USING '{label}', chunk;
        PERFORM pg_notify('{channel}', '');
    END LOOP;
    RETURN NULL;
"""


class OutboxTrigger(pgtrigger.Trigger):
    """The trigger of one kind of statement on a model's table.

    Args:
        operation: The kind of statement.
        sources: The names under which the statement's rows can be read: transition tables,
            or none for TRUNCATE, which is caught while the table still has its rows.
    """

    def __init__(self, operation: pgtrigger.Operation, *sources: str) -> None:
        self.sources = sources
        named = {name.partition("_")[0]: name for name in sources}
        super().__init__(
            name=f"ringcache_{str(operation).lower()}",
            level=pgtrigger.Statement,
            when=pgtrigger.After if sources else pgtrigger.Before,
            operation=operation,
            referencing=pgtrigger.Referencing(**named) if named else None,  # type: ignore[no-untyped-call]
        )

    def get_declare(self, model: models.Model) -> list[tuple[str, str]]:
        """Return the function's variables. Called by pgtrigger.

        The outbox is looked for beside the table first: another program's search path need
        not lead to it.
        """
        table = OutboxRow._meta.db_table
        beside = f"to_regclass(format('%I.%I', TG_TABLE_SCHEMA, '{table}'))"
        return [("outbox", f"regclass := COALESCE({beside}, to_regclass('{table}'))"), ("chunk", "jsonb")]

    def get_func(self, model: models.Model) -> str:
        """Return the function's body. Called by pgtrigger when every model is there."""
        columns = _columns(model)
        texts = ", ".join(f"'{name}', to_jsonb({_quoted(column)}) #>> '{{}}'" for name, column in columns)
        sources = self.sources or (_quoted(model._meta.db_table),)
        row = f"jsonb_build_object({texts})"
        changed = " UNION ".join(f"SELECT {row} AS texts FROM {source}" for source in sources)
        return _BODY.format(
            outbox=OutboxRow._meta.db_table,
            label=model._meta.label_lower,
            most=ROWS_PER_OUTBOX_ROW,
            changed=changed,
            channel=CHANNEL,
        )


def add_triggers(model: type[models.Model]) -> None:
    """Give a model's table, and its parents', the triggers, as soon as the model is whole."""
    if apps.all_models[model._meta.app_label].get(str(model._meta.model_name)) is model:
        _add(sender=model)
    else:
        class_prepared.connect(_add, sender=model, dispatch_uid=f"ringcache:triggers:{model._meta.label}")


def _add(*, sender: type[models.Model], **_: Any) -> None:
    for kin in (sender, *sender._meta.get_parent_list()):
        table = kin._meta.concrete_model or kin
        if not has_triggers(table):
            note_triggers(table)
            pgtrigger.register(
                OutboxTrigger(pgtrigger.Insert, "new_rows"),
                OutboxTrigger(pgtrigger.Update, "old_rows", "new_rows"),
                OutboxTrigger(pgtrigger.Delete, "old_rows"),
                OutboxTrigger(pgtrigger.Truncate),
            )(table)


def _columns(model: models.Model) -> list[tuple[str, str]]:
    """Return what keys are made of and the table has: attribute names, and columns, in the model's order.

    By pgtrigger's annotations a model is an instance; it is the class.
    """
    wanted = {
        name for _, dependent in dependents_of(cast("type[models.Model]", model)) for name in dependent.fields
    }
    return [
        (field.attname, field.column)
        for field in model._meta.local_concrete_fields
        if field.column is not None and (field.primary_key or field.attname in wanted)
    ]


def _quoted(name: str) -> str:
    return f'"{name}"'

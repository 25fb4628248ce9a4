"""Statement triggers for changes that Django does not see: raw SQL, other programs, COPY, cascades.

Each statement writes the states of the changed rows, old and new, into the outbox (``row_texts``), in its
own transaction, and notifies the relay. It also says so in a setting of the
transaction, so that no other transaction looks into the outbox. A trigger makes no cache keys: the
process that handles its outbox row makes them. This module needs django-pgtrigger, so it is
imported only if a manager asks for triggers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pgtrigger
from django.apps import apps
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.invalidation.relay_listener import CHANNEL
from cachebackend.invalidation.row_texts import (
    changed_member,
    has_short_names,
    is_virtual,
    most_states,
    object_of,
    text_of,
    value_fields,
)
from cachebackend.invalidation.trigger_rows import WROTE, has_triggers, record_triggers
from cachebackend.invalidation.watched import all_dependents, is_historical, shares_rows
from cachebackend.models import OutboxRow

__all__ = ["NOTIFY", "ROWS_PER_OUTBOX_ROW", "OutboxTrigger", "add_triggers", "register"]

#: States of changed rows that one outbox row names at most; this bounds the memory that the relay needs.
ROWS_PER_OUTBOX_ROW = 1000

#: The setting of a session whose triggers do not notify the relay if it is "off". Postgres prepares no
#: transaction for a two-phase commit that has sent notifications.
NOTIFY = "ringcache.notify"

_BODY = """
    IF outbox IS NULL THEN
        RAISE WARNING 'ringcache: the outbox table {outbox} is missing, so a change of {label} is not told';
        RETURN NULL;
    END IF;
    FOR chunk IN{unseen}
        SELECT jsonb_agg(numbered.texts)
        FROM (
            SELECT states.keys
                || CASE WHEN count(*) OVER () <= {most} THEN states.bound ELSE '{{}}' END AS texts,
                (row_number() OVER () - 1) / {limit} AS number
            FROM ({states}) AS states
        ) AS numbered
        GROUP BY numbered.number
    LOOP
        EXECUTE format(
            'INSERT INTO %s (keys, node, is_intent, label, rows, transaction_id) '
            'VALUES ('''', '''', false, $1, $2, pg_current_xact_id()::text::bigint)', outbox
        ) USING '{label}', chunk;
        PERFORM set_config('{wrote}', 'on', true);
        PERFORM pg_notify('{channel}', '') WHERE current_setting('{notify}', true) IS DISTINCT FROM 'off';
    END LOOP;
    RETURN NULL;
"""
#: A change without rows, which means everything of the model, if TRUNCATE may remove rows that its trigger
#: does not read: those that the snapshot of the transaction does not have, or that a policy hides.
_UNSEEN = """
        SELECT NULL::jsonb
        WHERE current_setting('transaction_isolation') <> 'read committed' OR row_security_active(TG_RELID)
        UNION ALL"""
#: The states of rows of which it is not known which became which. ``n`` and ``o`` are new and old rows.
_STATES = "SELECT {keys} AS keys, {bound} AS bound FROM {source} AS {row}"
#: The states of updated rows, and which columns differ between the rows before and after the statement that
#: have one primary key. It does not matter which became which: results depend on what the table holds.
#: Cascades of one statement share the tables of old and new rows. So there may be several rows of one key,
#: and which of them is the last one is not known: all columns may have changed.
#: Values are compared as they are stored, which every type allows, and no setting or search path changes.
#: A FULL JOIN is never a nested loop, which would be slow if the plan was made for few rows.
_COMPARED_STATES = """
    WITH both_rows AS (
        SELECT o.{pk} IS NOT NULL AS is_old, {old_keys} AS old_keys, {old_bound} AS old_bound,
            n.{pk} IS NOT NULL AS is_new, {new_keys} AS new_keys, {new_bound} AS new_bound,
            CASE WHEN o.{pk} IS NULL OR n.{pk} IS NULL OR count(*) OVER (PARTITION BY {old_pks}) > 1
            THEN '{{}}'
            ELSE jsonb_build_object('{member}', array_remove(ARRAY[{changed}], NULL)) END AS changed
        FROM old_rows AS o FULL JOIN new_rows AS n ON ROW({old_pks})::record *= ROW({new_pks})::record
    )
    SELECT old_keys || changed AS keys, old_bound AS bound FROM both_rows WHERE is_old
    UNION SELECT new_keys || changed, new_bound FROM both_rows WHERE is_new
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
        table = _project_model(model)
        return _BODY.format(
            outbox=OutboxRow._meta.db_table,
            label=model._meta.label_lower,
            limit=ROWS_PER_OUTBOX_ROW,
            most=most_states(value_fields(table)),
            unseen="" if self.sources else _UNSEEN,
            states=self._states(table),
            channel=CHANNEL,
            wrote=WROTE,
            notify=NOTIFY,
        )

    def _states(self, table: type[models.Model]) -> str:
        """Return the SQL of the states of changed rows. Only a table of Django has a unique primary key."""
        is_update = len(self.sources) == 2  # old and new rows
        if is_update and table._meta.managed and has_short_names(table):
            return _compared_states(table)
        sources = self.sources or (_quoted(table._meta.db_table),)
        return " UNION ".join(
            _STATES.format(source=source, row="n", keys=_keys(table, "n"), bound=_bound(table, "n"))
            for source in sources
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
            register(table)


def register(table: type[models.Model]) -> None:
    """Register the triggers of a model's own table."""
    record_triggers(table)
    pgtrigger.register(
        OutboxTrigger(pgtrigger.Insert, "new_rows"),
        OutboxTrigger(pgtrigger.Update, "old_rows", "new_rows"),
        OutboxTrigger(pgtrigger.Delete, "old_rows"),
        OutboxTrigger(pgtrigger.Truncate),
    )(table)


def _compared_states(table: type[models.Model]) -> str:
    """Return the SQL of the states of updated rows, with the columns that have changed."""
    pks = [_quoted(str(field.column)) for field in table._meta.pk_fields]
    fields = table._meta.local_concrete_fields
    changed = [_change(str(field.column), is_virtual=is_virtual(field)) for field in fields]
    return _COMPARED_STATES.format(
        pk=pks[0],
        old_pks=", ".join(f"o.{pk}" for pk in pks),
        new_pks=", ".join(f"n.{pk}" for pk in pks),
        old_keys=_keys(table, "o"),
        new_keys=_keys(table, "n"),
        old_bound=_bound(table, "o"),
        new_bound=_bound(table, "n"),
        member=changed_member(table),
        changed=", ".join(changed),
    )


def _change(column: str, *, is_virtual: bool) -> str:
    """Return the SQL of the name of a column if its value has changed, or is not known; else of NULL."""
    name, text = _quoted(column), "'" + column.replace("'", "''") + "'"
    return (
        text if is_virtual else f"CASE WHEN ROW(o.{name})::record *<> ROW(n.{name})::record THEN {text} END"
    )


def _key_fields(table: type[models.Model]) -> list[models.Field[Any, Any]]:
    """Return the fields of the columns that keys are made of, also those at the ends of relations."""
    # All dependents: where migrations are made without a ring, the SQL must be the same
    names = {
        name
        for watched, dependent in all_dependents()
        if shares_rows(watched, table)
        for name in dependent.fields
    }
    return [
        field
        for field in table._meta.local_concrete_fields
        if field in table._meta.pk_fields or field.is_relation or field.attname in names
    ]


def _keys(table: type[models.Model], row: str) -> str:
    """Return the SQL of the columns of a row that keys are made of."""
    return _texts(_key_fields(table), row)


def _bound(table: type[models.Model], row: str) -> str:
    """Return the SQL of the other values of a row that queries may bind."""
    keys = _key_fields(table)
    return _texts([field for field in value_fields(table) if field not in keys], row)


def _texts(fields: Sequence[models.Field[Any, Any]], row: str) -> str:
    return object_of((field.attname, text_of(f"{row}.{_quoted(str(field.column))}")) for field in fields)


def _project_model(model: models.Model) -> type[models.Model]:
    """Return the project's model of a table.

    pgtrigger annotates the model as an instance, but passes a class: for ``makemigrations`` that of
    a migration's state, which nothing is registered for.
    """
    table = cast("type[models.Model]", model)
    return apps.get_model(table._meta.label) if is_historical(table) else table


def _quoted(name: str) -> str:
    return f'"{name}"'

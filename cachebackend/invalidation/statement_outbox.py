"""Statements on Postgres that write their own outbox row, and so need no transaction beside their own.

    WITH ringcache_rows (...) AS (UPDATE ... RETURNING ...),
    ringcache_outbox AS (INSERT INTO cachebackend_outboxrow ... SELECT ... FROM ringcache_rows RETURNING id)
    SELECT ringcache_rows.*, (SELECT ... FROM ringcache_outbox) FROM ringcache_rows

One round trip and one commit store the change and its pending deletes, or neither. The outbox row holds
the changed rows as triggers write them (``row_texts``): a statement cannot make keys. The writer makes
the keys from the rows that the statement returns; the relay makes them from the outbox row if the writer
dies.

A large statement writes several outbox rows. An UPDATE or DELETE then returns no rows, because it may
change any number of them: the writer reads its outbox rows one at a time (``stored_changes``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import models

from cachebackend.conf import namespace_function
from cachebackend.invalidation.catalogue import catalogue_of
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.invalidation.row_texts import (
    changed_member,
    has_short_names,
    most_states,
    object_of,
    short_text_of,
    text_of,
)
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.trigger_rows import triggered_models
from cachebackend.models import OutboxRow

__all__ = ["OF_WRITER", "ROWS_PER_OUTBOX_ROW", "StatementOutbox", "can_write_outbox_row"]

#: Changed rows that one outbox row names at most. With a key and a tag for each of their states, they have
#: 10,000 keys; this bounds the memory that a relay needs.
ROWS_PER_OUTBOX_ROW = 2500
#: Changed rows that an UPDATE or DELETE returns at most: the writer keeps all of them in memory.
RETURNED_ROWS = ROWS_PER_OUTBOX_ROW
#: The ``transaction_id`` of these rows. Their writer makes the keys; the relay gives it the time to do so.
OF_WRITER = 0
_ROWS, _OUTBOX = "ringcache_rows", "ringcache_outbox"


def can_write_outbox_row(connection: Any, model: type[models.Model], tables: Sequence[WatchedTable]) -> bool:
    """Return whether a statement on a table can write its own outbox row.

    It cannot:

    - on another database than Postgres, or on one without the outbox;
    - if the rows of the table are cached as those of another model: a row names one model;
    - if keys depend on a namespace, which the relay does not know;
    - if keys are strict: they must be in quarantine before the commit;
    - if the statement may run triggers that write outbox rows. The writer takes those before the commit.
    """
    if connection.vendor != "postgresql" or len(tables) != 1 or tables[0].model is not model:
        return False
    if namespace_function() is not None or not has_outbox(connection.alias):
        return False
    if any(dependent.is_strict for dependent in tables[0].all_dependents()):
        return False
    catalogue = catalogue_of(model._meta.db_table, connection.alias)
    return catalogue.is_table and not (triggered_models() and catalogue.may_change_other_rows)


class StatementOutbox:
    """The outbox rows that one statement writes.

    Args:
        table: The table whose rows the statement changes. The statement returns its ``fields`` first.
        quote_name: Quotes a name for the database.
        is_large: Whether the statement may change more rows than one outbox row names.
        is_single: Whether it changes at most one row, whose old values are known if it returns them.
        returns_all: Whether the statement returns its rows even if they are more than ``RETURNED_ROWS``.
        values: The fields of the next columns that it returns, which queries may bind.
        bindable: The fields of the table that queries may bind: their columns have the usual types.
        changed: The columns that differ between the states of a row; None: all may, or it has one state.

    Attributes:
        pks: The primary keys of the outbox rows, once the statement has run.
        omitted: How many rows the statement has changed and not returned.
    """

    def __init__(
        self,
        table: WatchedTable,
        quote_name: Callable[[str], str],
        *,
        is_large: bool,
        is_single: bool = False,
        returns_all: bool = True,
        values: Sequence[models.Field[Any, Any]] = (),
        bindable: Collection[models.Field[Any, Any]] = (),
        changed: Collection[str] | None = None,
    ) -> None:
        self._table, self._quote, self._is_large = table, quote_name, is_large
        self._is_single = is_single
        self._may_omit = is_large and not returns_all
        self._values = tuple(values)
        self._unusual = tuple(field for field in table.fields if field not in bindable)
        self._changed = frozenset(changed or ()) if table.result_aliases else frozenset()
        self.pks: list[int] = []
        self.omitted = 0

    def around(self, statement: str, marker: str, width: int, states: int) -> str:
        """Return a statement that writes its outbox rows, too.

        Args:
            statement: The statement, with its RETURNING clause.
            marker: The name of the first column that it returns.
            width: How many columns it returns.
            states: 1: they are those of one row. 2: those of the row before the change, then those of the
                row after it.
        """
        form = _Form(
            self._table.model,
            self._quote(OutboxRow._meta.db_table),
            self._quote(str(OutboxRow._meta.pk.column)),
            self._quote(marker),
            width,
            states,
            tuple(self._table.fields),
            self._unusual,
            self._values,
            self._changed,
            ROWS_PER_OUTBOX_ROW if self._is_large else None,
            self._is_single,
            RETURNED_ROWS if self._may_omit else None,
            most_states(self._values) // states if self._is_large and self._values else 0,
        )
        before, after = _text_around(form)
        return before + statement + after

    def take(self, rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """Return the rows that the statement returns, without the keys of the outbox rows, which are kept."""
        if self._may_omit:
            is_omitted = bool(rows) and rows[0][-1] > RETURNED_ROWS
            self.omitted += rows[0][-1] if is_omitted else 0
            self.pks += (rows[0][-2] or ()) if is_omitted else ()
            rows = [] if is_omitted else [row[:-1] for row in rows]
        self.pks += next((row[-1] for row in rows if row[-1]), ())
        return [row[:-1] for row in rows]


class _Form(NamedTuple):
    """What the text around a statement depends on.

    Attributes:
        model: The model whose rows the statement changes.
        outbox: The name of the outbox table, as SQL, as the other names are.
        pk: The name of its primary key.
        marker: The name of the first column that the statement returns.
        width: How many columns the statement returns.
        states: How many states of a row these are.
        fields: The fields of the first columns.
        unusual: Those of ``fields`` whose columns may have another type than is usual for the field.
        values: The fields of the next columns.
        changed: The columns that may differ between the states of a row; empty: all may.
        rows_of_chunk: How many changed rows one outbox row names at most; None: the statement changes few.
        is_single: Whether each changed row has an outbox row of its own: there is at most one.
        returned: How many changed rows are returned at most; None: all are.
        rows_with_values: Of how many changed rows the outbox rows hold ``values``, if there may be many.
    """

    model: type[models.Model]
    outbox: str
    pk: str
    marker: str
    width: int
    states: int
    fields: tuple[models.Field[Any, Any], ...]
    unusual: tuple[models.Field[Any, Any], ...]
    values: tuple[models.Field[Any, Any], ...]
    changed: frozenset[str]
    rows_of_chunk: int | None
    is_single: bool
    returned: int | None
    rows_with_values: int

    def texts(self, columns: Sequence[str], condition: str) -> str:
        """Return the SQL of a state of a row (``row_texts``); its values are written on a condition."""
        members = [
            (field.attname, text_of(column) if field in self.unusual else short_text_of(field, column))
            for field, column in zip((*self.fields, *self.values), columns, strict=True)
        ]
        keys = object_of([*members[: len(self.fields)], *self._list])
        if not self.values:
            return keys
        both = object_of([*members, *self._list])
        return f"CASE WHEN {condition} THEN {both} ELSE {keys} END" if condition else both

    def differs(self, old: Sequence[str], new: Sequence[str], condition: str) -> str:
        """Return the SQL of whether the states of a row differ in what is written of them."""
        if not condition:
            return f"({', '.join(old)}) IS DISTINCT FROM ({', '.join(new)})"
        count = len(self.fields)
        keys = self.differs(old[:count], new[:count], "")
        return f"{keys} OR {condition} AND {self.differs(old[count:], new[count:], '')}"

    @property
    def _list(self) -> list[tuple[str, str]]:
        """The member of a state that lists the changed columns, as for ``object_of``; empty: all may be."""
        columns = sorted(self.changed)
        if (
            not columns
            or not has_short_names(self.model)
            or any({"'", "%", "\\"} & {*name} for name in columns)
        ):
            return []
        return [(changed_member(self.model), f"'{json.dumps(columns)}'::jsonb")]


@lru_cache(maxsize=500)
def _text_around(form: _Form) -> tuple[str, str]:
    """Return what comes before and after a statement that writes its outbox rows."""
    columns = [form.marker, *(f"c{number}" for number in range(1, form.width))]
    own = len(form.fields) + len(form.values)
    old = columns[:own]
    # Of a large statement that has changed many rows, outbox rows hold no values
    is_large = form.rows_of_chunk is not None
    condition = f"total <= {form.rows_with_values}" if is_large and form.values else ""
    source, group = _ROWS, "HAVING count(*) > 0"
    if form.is_single:  # Postgres parses it in two thirds of the time
        states = [columns[start:][:own] for start in range(0, form.width, form.width // form.states)]
        rows = f"jsonb_build_array({', '.join(form.texts(state, '') for state in states)})"
        group = ""
    elif form.states == 2:  # a row that an upsert has inserted has no old values
        new = columns[form.width // 2 :][:own]
        rows = " || ".join(
            f"COALESCE(jsonb_agg({form.texts(state, condition)}) FILTER (WHERE {is_written}), '[]')"
            for state, is_written in (
                (old, f"{old[0]} IS NOT NULL"),
                (new, form.differs(old, new, condition)),
            )
        )
    else:
        rows = f"jsonb_agg({form.texts(old, condition)})"
    if is_large:
        number = f"(row_number() OVER () - 1) / {form.rows_of_chunk}"
        counted = f"{number} AS chunk, count(*) OVER () AS total"
        source, group = f"(SELECT *, {counted} FROM {_ROWS}) AS numbered", "GROUP BY chunk"
    pks = f"(SELECT array_agg({form.pk}) FROM {_OUTBOX})"
    if is_large:  # they need not be sent with every row
        pks = f"CASE WHEN row_number() OVER () = 1 THEN {pks} END"
    returned = f"{_ROWS}.*, {pks} FROM {_ROWS}"
    if form.returned is not None:
        returned = (
            f"{_ROWS}.*, {pks}, total FROM (SELECT count(*) AS total FROM {_ROWS}) AS counted "
            f"LEFT JOIN {_ROWS} ON total <= {form.returned} WHERE total > 0"
        )
    return f"WITH {_ROWS} ({', '.join(columns)}) AS (", (
        f"), {_OUTBOX} AS ("
        f"INSERT INTO {form.outbox} (keys, node, is_intent, label, rows, transaction_id) "
        f"SELECT '', '', false, '{form.model._meta.label_lower}', {rows}, {OF_WRITER} "
        f"FROM {source} {group} RETURNING {form.pk}) SELECT {returned}"
    )

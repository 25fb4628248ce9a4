"""The form in which the database writes changed rows into an outbox row.

Triggers, and statements that write their own outbox row, cannot make keys. They write each **state** of a
changed row, before and after the change, as an object with the texts of columns, by attribute name:

- the columns that keys are made of;
- the values of the columns that queries may bind, if the statement has changed at most ``most_states``;
- for an update, the names of the columns that have changed, under ``changed_member``.

So a process finds which results of queries are wrong (``query_changes``). What an object does not have is
not known: every column of it counts as changed, and every tag of a shape that binds a column without a
readable text is wrong. Triggers of an earlier release write the columns of keys alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeAlias

from django.apps import apps
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.invalidation.catalogue import bindable_fields, kind_of
from cachebackend.invalidation.query_changes import MAX_ROWS, ValueChange, digests_of
from cachebackend.invalidation.tables import table_name
from cachebackend.invalidation.watched import Row

__all__ = [
    "TextRow",
    "changed_member",
    "has_short_names",
    "is_virtual",
    "most_states",
    "object_of",
    "short_text_of",
    "text_of",
    "value_changes",
    "value_fields",
]

#: The columns of a state by attribute name, as text; None is NULL. ``changed_member`` has a list of columns.
TextRow: TypeAlias = Mapping[str, Any]
AnyField: TypeAlias = "models.Field[Any, Any]"
#: Columns that one call names at most: Postgres allows 100 arguments, and a column needs two.
COLUMNS_PER_OBJECT = 50
#: The bytes that the values of one statement's states have at most: a quarter of what a relay reads of a row.
MAX_VALUE_BYTES = 2 * 1024**2
#: The bytes that the names of a table's columns have at most together, if each state lists changed ones.
MAX_NAME_BYTES = 4096
#: Bytes of quotes, a separator, and a value of another kind than text.
_BYTES_OF_COLUMN = 60
#: The most bytes of a character.
_BYTES_OF_CHARACTER = 4


def text_of(column: str) -> str:
    """Return the SQL of the text of a column of any type."""
    return f"to_jsonb({column}) #>> '{{}}'"


def short_text_of(field: AnyField, column: str) -> str:
    """Return the SQL of the text of a field's column, which for most fields has fewer calls.

    Postgres parses a statement with half as many calls in two thirds of the time. An object holds dates,
    times and UUIDs as the same texts. The column must have the type that is usual for the field: an object
    holds an integer below a ``CharField`` as a number, which no relay reads.
    """
    kind = kind_of(field)
    if kind in {"integer", "decimal", "boolean"}:
        return f"{column}::text"
    return text_of(column) if kind is None else column


def object_of(columns: Iterable[tuple[str, str]]) -> str:
    """Return the SQL of an object with the texts of columns.

    Args:
        columns: The attribute name of each column, and the SQL of its text.
    """
    texts = [f"'{name}', {text}" for name, text in columns]
    objects = (
        f"jsonb_build_object({', '.join(texts[start : start + COLUMNS_PER_OBJECT])})"
        for start in range(0, len(texts), COLUMNS_PER_OBJECT)
    )
    return " || ".join(objects) or "'{}'::jsonb"


def is_virtual(field: AnyField) -> bool:
    """Return whether a column is computed when it is read: a trigger does not see its value."""
    return bool(field.generated) and not getattr(field, "db_persist", True)


def value_fields(model: type[models.Model]) -> list[AnyField]:
    """Return the fields of a model's own table that queries may bind if the columns have the usual types."""
    return [
        field
        for field in model._meta.local_concrete_fields
        if kind_of(field) is not None and not is_virtual(field)
    ]


def most_states(fields: Sequence[AnyField]) -> int:
    """Return the most states of which a statement writes the values of some fields."""
    longest = sum(
        _BYTES_OF_COLUMN
        + len(field.attname)
        + (field.max_length or 0) * _BYTES_OF_CHARACTER
        + (getattr(field, "max_digits", None) or 0)
        for field in fields
    )
    return min(MAX_ROWS, MAX_VALUE_BYTES // max(longest, 1))


def _columns(model: type[models.Model]) -> set[str]:
    return {str(field.column) for field in model._meta.local_concrete_fields}


def has_short_names(model: type[models.Model]) -> bool:
    """Return whether the names of all columns of a model are short enough to be in every state."""
    return sum(map(len, _columns(model))) <= MAX_NAME_BYTES


def changed_member(model: type[models.Model]) -> str:
    """Return the name of the member that lists the changed columns.

    It is made of the names of all columns that are compared. So a process whose model has other columns does
    not find it. A column that a trigger does not know may have changed, too: the trigger is replaced by a
    migration that runs after the one that adds the column. No attribute has a name with a space.
    """
    names = "\0".join(sorted(_columns(model)))
    return f"changed of {blake2b(names.encode(), digest_size=4).hexdigest()}"


def value_changes(
    model: type[models.Model], rows: Iterable[Row], texts: Iterable[TextRow], using: str
) -> Iterator[ValueChange]:
    """Yield what the states of rows of a model's own table change for results.

    Args:
        model: The model.
        rows: The states with the values that Django reads; None also for a text that it cannot read.
        texts: The same states as the outbox row has them.
        using: The alias of the database.

    Raises:
        ValueError: The list of changed columns is damaged.
    """
    fields, member, others = bindable_fields(model, using), changed_member(model), _columns_of_others(model)
    for row, text in zip(rows, texts, strict=True):
        changed = text.get(member)
        if changed is not None and not _are_names(changed):
            message = f"{changed!r:.100} is not a list of columns"
            raise ValueError(message)
        readable = [field for field in fields if _is_readable(field.attname, row, text)]
        yield ValueChange(None if changed is None else others.union(changed), digests_of(row, readable), None)


def _is_readable(name: str, row: Row, text: TextRow) -> bool:
    return name in text and (text[name] is None or row.get(name) is not None)


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


_others: dict[type[models.Model], frozenset[str]] = {}


def _columns_of_others(model: type[models.Model]) -> frozenset[str]:
    """Return the columns that only other models of the same table have: nothing compares them."""
    found = _others.get(model)
    if found is None:
        name, columns = table_name(model._meta.db_table), set()
        for other in apps.get_models(include_auto_created=True):
            if table_name(other._meta.db_table) == name:
                columns |= _columns(other)
        found = _others[model] = frozenset(columns - _columns(model))
    return found


def _forget_others(**_: Any) -> None:
    _others.clear()


class_prepared.connect(_forget_others, dispatch_uid="ringcache:row_texts")

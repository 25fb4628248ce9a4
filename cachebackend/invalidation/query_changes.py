"""Changes of rows by value, as the results of queries need them: which tags of which shapes are wrong.

Keys of rows are known when a row changes. The tags of results are not: they depend on the shapes that
are registered when the change is committed (``protocol.cache.shapes``). So a transaction collects a
**change** of each table instead: the digests of the changed rows' values, before and after. It is one of
the keys that wait for the commit, and the outbox row holds it like them. When it is its turn to be
deleted, the registry is read (``shape_registry``), and the tags that the change makes wrong are deleted
in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import ormsgpack
from django.db import models

from cachebackend.backend.canonical import canonical_text
from cachebackend.backend.keys import change_key, content_of_change_key
from cachebackend.backend.scope import scopes_of_write
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.catalogue import bindable_fields, catalogue_of
from cachebackend.invalidation.changes import ChangedRow, TableChanges
from cachebackend.invalidation.tables import table_name
from cachebackend.invalidation.watched import Row
from cachebackend.shapes import NULL, Shape, value_digest

__all__ = [
    "MAX_ROWS",
    "ResultChange",
    "ValueChange",
    "change_of_columns",
    "changes_of_rows",
    "check_changes",
    "digests_of",
    "unknown_change",
]

#: The most changed rows of a table that a change holds. With more, it holds their columns alone, and the
#: results of every shape that depends on one of these are wrong.
MAX_ROWS = 2000
#: By column; None: the row does not exist. A value that is not known has no digest.
_Digests: TypeAlias = Mapping[str, bytes]


class ValueChange(NamedTuple):
    """One row that changed, or one of its two states.

    Attributes:
        columns: The columns that changed; None: all, as of a row that was inserted or deleted.
        old: The digests of its values before; None: it did not exist.
        new: The digests of its values after; None: it does not exist.
    """

    columns: Collection[str] | None
    old: _Digests | None
    new: _Digests | None


class ResultChange(NamedTuple):
    """What a statement has changed in a table.

    Attributes:
        scopes: The scopes in which results of the table are cached.
        table: The name of the table, as readers have it (``table_name``).
        rows: The rows; None: they are not known, or too many.
        columns: If they are not: the columns that changed; None: all.
    """

    scopes: Sequence[str]
    table: str
    rows: Sequence[ValueChange] | None
    columns: Collection[str] | None = None

    @property
    def key(self) -> bytes:
        """The change as one of the keys that wait for the commit."""
        rows = None if self.rows is None else [_packed(row) for row in self.rows]
        columns = None if self.columns is None else sorted(self.columns)
        return change_key(ormsgpack.packb([list(self.scopes), self.table, rows, columns]))

    @classmethod
    def read(cls, content: bytes) -> ResultChange:
        """Return the change that a key holds.

        Raises:
            ValueError: It is damaged.
        """
        try:
            scopes, table, rows, columns = ormsgpack.unpackb(content)
            changed = None if rows is None else [ValueChange(*row) for row in rows]
            is_right = (
                _are_texts(scopes) and isinstance(table, str) and (columns is None or _are_texts(columns))
            )
            is_right &= changed is None or (isinstance(rows, list) and all(map(_is_change, changed)))
        except (TypeError, ValueError) as error:
            raise_interrupt(error)
            message = f"{content[:40]!r} is not a change of rows"
            raise ValueError(message) from error
        if not is_right:
            message = f"{content[:40]!r} is not a change of rows"
            raise ValueError(message)
        return cls(scopes, table, changed, columns)

    def without_rows(self) -> ResultChange:
        """Return the change with its columns alone."""
        columns: set[str] | None = set()
        for row in self.rows or ():
            columns = None if columns is None or row.columns is None else columns.union(row.columns)
        return self if self.rows is None else self._replace(rows=None, columns=columns)

    def wrong_tags(self, shape: Shape) -> set[str] | None:
        """Return the last parts of the names of the shape's tags that are wrong; None: any may be."""
        if self.rows is None:
            return None if shape.depends_on(self.columns) else set()
        tags: set[str] = set()
        for row in self.rows:
            if shape.depends_on(row.columns):
                for digests in (row.old, row.new):
                    tag = shape.tag(digests) if digests is not None else ""
                    if tag is None:
                        return None
                    tags.add(tag)
        return tags - {""}


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _is_change(row: ValueChange) -> bool:
    """Return whether a row that was read has the form of a changed row."""
    return (row.columns is None or _are_texts(row.columns)) and all(
        digests is None
        or (
            isinstance(digests, dict)
            and all(isinstance(name, str) and isinstance(value, bytes) for name, value in digests.items())
        )
        for digests in (row.old, row.new)
    )


def check_changes(keys: Iterable[bytes]) -> None:
    """Raise a ValueError if the key of a change is damaged; other keys are not looked at."""
    for key in keys:
        if (content := content_of_change_key(key)) is not None:
            ResultChange.read(content)


def _packed(row: ValueChange) -> list[Any]:
    columns = None if row.columns is None else sorted(row.columns)
    return [columns, None if row.old is None else dict(row.old), None if row.new is None else dict(row.new)]


def changes_of_rows(changes: TableChanges, using: str) -> ResultChange | None:
    """Return what a statement's rows change for results; None: nothing.

    Args:
        changes: The rows.
        using: The alias of their database.
    """
    if len(changes.rows) > MAX_ROWS:
        return change_of_columns(changes, using)
    table, scopes = changes.table.model._meta.db_table, scopes_of_write(using)
    fields = bindable_fields(changes.table.model, using)
    changed = None if catalogue_of(table, using).has_before_row_triggers else changes.columns
    found = (_value_change(row, fields, changed, knows_old=changes.knows_old) for row in changes.rows)
    rows = [each for each in found if each is not None]
    return ResultChange(scopes, table_name(table), rows) if rows else None


def change_of_columns(changes: TableChanges, using: str) -> ResultChange:
    """Return what a statement changes for results if the values of its rows are not followed.

    Arguments as for ``changes_of_rows``; some of the statement's rows are enough.
    """
    table = changes.table.model._meta.db_table
    is_update = all(row.old is not None and row.new is not None for row in changes.rows)
    has_triggers = catalogue_of(table, using).has_before_row_triggers
    return unknown_change(table, using, changes.columns if is_update and not has_triggers else None)


def unknown_change(table: str, using: str, columns: Collection[str] | None = None) -> ResultChange:
    """Return a change of rows that are not known; None for ``columns``: nor are the columns."""
    return ResultChange(scopes_of_write(using), table_name(table), None, columns)


def _value_change(
    row: ChangedRow,
    fields: Sequence[models.Field[Any, Any]],
    changed: frozenset[str] | None,
    *,
    knows_old: bool,
) -> ValueChange | None:
    """Return what a row's change is for results; None if none of its columns has another value."""
    if row.old is None or row.new is None:
        return ValueChange(
            None,
            None if row.old is None else digests_of(row.old, fields),
            None if row.new is None else digests_of(row.new, fields),
        )
    old = digests_of(row.old, fields)
    if row.new is row.old:
        new = old
    else:
        differing = [field for field in fields if _differs(field.attname, row.old, row.new)]
        names = {str(field.column) for field in differing}  # a value without a text has no digest at all
        new = {column: digest for column, digest in old.items() if column not in names}
        new |= digests_of(row.new, differing)
    if changed is None:
        return ValueChange(None, old, new)
    same = {column for column, digest in old.items() if new.get(column) == digest}
    columns = changed - same if knows_old else changed
    return ValueChange(columns, old, new) if columns else None


def _differs(name: str, old: Row, new: Row) -> bool:
    return (
        name not in old or name not in new or type(old[name]) is not type(new[name]) or old[name] != new[name]
    )


def digests_of(row: Row, fields: Iterable[models.Field[Any, Any]]) -> dict[str, bytes]:
    """Return the digests of a row's values by column; a value without a canonical text has none."""
    digests = {}
    for field in fields:
        if field.attname in row:
            value = row[field.attname]
            text = None if value is None else canonical_text(field, value)
            if value is None or text is not None:
                digests[str(field.column)] = NULL if text is None else value_digest(text)
    return digests

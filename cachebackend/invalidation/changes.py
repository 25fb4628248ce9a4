"""The rows that one statement has changed, before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.watched import Dependent, Row

__all__ = ["ChangedRow", "Pair", "TableChanges", "paired", "unpaired"]

#: The values of a row before and after a statement, in the order of the columns that it reads. None: the
#: row did not exist. One object twice: the statement changed no column that it reads.
Pair: TypeAlias = tuple[Sequence[Any] | None, Sequence[Any] | None]


class ChangedRow(NamedTuple):
    """A changed row: its columns by attribute name; the primary key also under ``pk``.

    Where it is not known which old row became which new row, the change is a deletion and an insertion.

    Attributes:
        old: The row before the change; None: it did not exist.
        new: The row after the change; None: it does not exist. The same object as ``old`` if no column
            that is read has changed.
    """

    old: Row | None
    new: Row | None


@dataclass(frozen=True, slots=True)
class TableChanges:
    """The rows of a table that one statement has changed, as one cached model has them.

    Attributes:
        table: The table.
        rows: The rows.
        columns: The names of the columns that may differ between ``old`` and ``new`` of a row that has
            both. All columns of an inserted or deleted row count as changed.
        knows_old: Whether the values before the change were read. If not, ``old`` is the same object as
            ``new``: the statement sets no column that is read, but a trigger may have changed one.
        is_new: Whether rows may be new: then a cached absence may be wrong.
        in_migration: Whether tables may lack columns that the project's models have.
    """

    table: WatchedTable
    rows: Sequence[ChangedRow]
    columns: frozenset[str]
    knows_old: bool
    is_new: bool
    in_migration: bool

    def units(self, most: int) -> Iterator[TableChanges]:
        """Yield the changes in parts of at most ``most`` rows."""
        if len(self.rows) <= most:
            yield self
            return
        for start in range(0, len(self.rows), most):
            yield replace(self, rows=self.rows[start : start + most])

    def states(self) -> list[Row]:
        """Return the rows as they were and as they are, with the columns from which keys are made.

        A row whose keys stay the same comes once. If its lookup values are known to stay the same, it comes
        without them: what is cached under them is its primary key.
        """
        names = {field.attname for field in self.table.model._meta.pk_fields}
        names |= {end.attname for end in self.table.ends}
        lookups = [field.attname for field in self.table.fields if field.attname not in names]
        kept = (*names, "pk")
        states: list[Row] = []
        for old, new in self.rows:
            if old is None or new is None:
                states += [row for row in (old, new) if row is not None]
            elif not self.is_new and self.knows_old and _are_same((*lookups, *kept), old, new):
                states.append({name: old[name] for name in kept})
            else:
                states += [old] if old is new else [old, new]
        return states

    def of_dependents(self, using: str) -> Iterator[tuple[Dependent, list[Row]]]:
        """Yield each dependent with the rows that are wrong; ``using`` is the alias of the database."""
        yield from self.table.changed(
            self.states(), using, is_new=self.is_new, in_migration=self.in_migration
        )


def _are_same(names: Iterable[str], old: Row, new: Row) -> bool:
    return old is new or all(old.get(name) == new.get(name) for name in names)


def paired(old: Sequence[Sequence[Any]], new: Sequence[Sequence[Any]], key_width: int) -> list[Pair]:
    """Return rows before and after a statement, matched by primary key, which it does not change.

    Args:
        old: The rows before it.
        new: The rows after it.
        key_width: How many of the first columns are the primary key.
    """
    try:
        before = {tuple(row[:key_width]): row for row in old}
        pairs: list[Pair] = [(before.pop(tuple(row[:key_width]), None), row) for row in new]
    except TypeError as error:  # a field of the project may read values that have no hash
        raise_interrupt(error)
        return unpaired(old, new)
    return pairs + [(row, None) for row in before.values()]


def unpaired(old: Sequence[Sequence[Any]], new: Sequence[Sequence[Any]]) -> list[Pair]:
    """Return rows before and after a statement of which it is not known which became which."""
    return [*((row, None) for row in old), *((None, row) for row in new)]

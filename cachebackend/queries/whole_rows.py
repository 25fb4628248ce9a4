"""Whole rows: instances whose primary keys are a result, each read from its own entry.

A row may have been changed after the result was read. Then it may not be one of the result any more:

    1. reader    reads the result: row 1 has category 5
    2. writer    moves row 1 to category 6, and commits
    3. reader    reads row 1: it has category 6

So each row is compared with the equalities of the query, and so are the rows that ``select_related``
follows. If a row contradicts them or is gone, the caller loads the result again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, NamedTuple
from uuid import UUID

from django.db import models
from django.db.models.constants import LOOKUP_SEP

from cachebackend import protocol
from cachebackend.backend.canonical import canonical_text
from cachebackend.queries.forms import ROWS
from cachebackend.queries.plans import Equalities, Plan
from cachebackend.queries.relations import Relation

__all__ = ["CONTRADICTED", "NOTHING", "Before", "Found", "WholeRows"]

#: How often a result is read whose rows contradict it, before the query is run.
ATTEMPTS = 2
#: The most rows that are read beside a result.
MAX_BESIDE = 50
#: Returned instead of instances: the rows contradict each result that was read.
CONTRADICTED: Any = object()
#: The columns of rows that were read, by their primary keys, for each manager.
Found = dict[Any, dict[Any, Sequence[Any]]]
#: The types of most columns. Instances may share their values.
_UNCHANGEABLE = {bool, bytes, date, datetime, Decimal, float, int, NoneType, str, time, timedelta, UUID}


class Before(NamedTuple):
    """What a read of instances had, for the next one; nothing if it had too many rows.

    Attributes:
        keys: The primary keys in the result.
        rows: The primary keys of all rows that were read, by manager.
    """

    keys: Sequence[Any]
    rows: Mapping[Any, Sequence[Any]]


NOTHING = Before((), {})


class WholeRows(NamedTuple):
    """Reads the instances whose primary keys are a result.

    Attributes:
        manager: The ``CachedManager`` that reads the rows.
        relations: The foreign keys whose rows are read from their own entries, too.
    """

    manager: Any
    relations: Sequence[Relation] = ()

    def __str__(self) -> str:
        """Return which rows are read from their own entries, as text to be read."""
        paths = (LOOKUP_SEP.join(each.path) for each in _all(self.relations))
        return f"{' and '.join(['rows', *paths])} are read from their own entries"

    @property
    def models(self) -> set[type[models.Model]]:
        """The models whose rows are read from their own entries."""
        return {self.manager.model, *(each.manager.model for each in _all(self.relations))}

    def is_of(self, using: str) -> bool:
        """Return whether all rows are read from a database, as they were when the query was compiled."""
        return all(each.manager.database == using for each in _all(self.relations))

    def read(
        self,
        result: Callable[[], tuple[Sequence[Any], Plan] | None],
        drop: Callable[[Plan], None],
    ) -> Any:
        """Return the instances of a result; load it again, once, if the rows contradict it.

        Args:
            result: Reads the result: the primary keys, and the plan of the query; None: it is not cached.
            drop: Deletes a result.

        Returns:
            None: the result is not cached. CONTRADICTED: the query must be run.
        """
        for _ in range(ATTEMPTS):
            found = result()
            if found is None:
                return None
            keys, plan = found
            instances = self.instances(keys, {}, plan)
            if instances is not None:
                return instances
            drop(plan)
        return CONTRADICTED

    def read_beside(
        self, wanted: tuple[Any, ...], before: Before, plan: Plan
    ) -> tuple[list[Any] | None, Before] | None:
        """Read a result and, in the same scatter, the rows that it had before.

        Args:
            wanted: The arguments of ``protocol.get_result``.
            before: What the last read of the result had.
            plan: The plan of the query.

        Returns:
            The instances, or None if they contradict the query, and what the next read needs. None: the ring
            has no such result.
        """
        reading = self.reading(before.rows) if before.keys else None
        found: Found = {}
        if reading is None:
            rows = self.manager.cache.client.run(protocol.get_result(*wanted))
        else:
            read = protocol.get_result_and_rows(
                *wanted, rows=reading, are_of=lambda rows: ROWS(rows) == before.keys
            )
            rows, beside = self.manager.cache.client.run(read)
            found = beside or found
        if rows is protocol.MISSING:
            return None
        keys = ROWS(rows)
        instances = self.instances(keys, found, plan)
        is_small = sum(map(len, found.values())) <= MAX_BESIDE
        after = Before(keys, {manager: tuple(each) for manager, each in found.items()})
        return instances, after if is_small else NOTHING

    def instances(self, keys: Sequence[Any], found: Found, plan: Plan) -> list[Any] | None:
        """Return the instances in the order of their primary keys; None: they contradict the query.

        Args:
            keys: The primary keys.
            found: The rows that were read already; those that are read are added.
            plan: The plan of the query.
        """
        self._read({self.manager: keys}, found)
        used: set[int] = set()
        rows = _made(self.manager, keys, found, used)
        if None in rows or not _fit(rows, plan.equalities.get((), {})):
            return None
        owners = [rows] * len(self.relations)
        return rows if self._follow(self.relations, owners, found, used, plan) else None

    def reading(self, wanted: Mapping[Any, Iterable[Any]]) -> protocol.Operation[Found] | None:
        """Return the operation that reads rows, by manager; None: a manager has no ring cache."""
        operations = [manager.reading(keys) for manager, keys in wanted.items()]
        return None if None in operations else _read_side_by_side(list(wanted), operations)

    def _read(self, wanted: Mapping[Any, Iterable[Any]], found: Found) -> None:
        """Read the rows that were not read yet."""
        unread = {
            manager: keys
            for manager, each in wanted.items()
            if (keys := [key for key in dict.fromkeys(each) if key not in found.setdefault(manager, {})])
        }
        reading = self.reading(unread) if unread else None
        if reading is not None:
            for manager, rows in self.manager.cache.client.run(reading).items():
                found[manager] |= rows

    def _follow(
        self,
        relations: Sequence[Relation],
        owners: Sequence[Sequence[Any]],
        found: Found,
        used: set[int],
        plan: Plan,
    ) -> bool:
        """Set the related rows of rows, level by level: one scatter reads those of a level.

        Args:
            relations: The foreign keys of one level.
            owners: The rows that have them, for each foreign key.
            found: The rows that were read already.
            used: The ``id`` of the columns that an instance has.
            plan: The plan of the query.

        Returns:
            Whether all related rows exist, and none contradicts the query.
        """
        if not relations:
            return True
        wanted: dict[Any, list[Any]] = {}
        values = [
            [getattr(row, relation.field.attname) for row in rows]
            for relation, rows in zip(relations, owners, strict=True)
        ]
        for relation, keys in zip(relations, values, strict=True):
            wanted.setdefault(relation.manager, []).extend(key for key in keys if key is not None)
        self._read(wanted, found)
        inner: list[tuple[Relation, list[Any]]] = []
        for relation, rows, keys in zip(relations, owners, values, strict=True):
            related = _made(relation.manager, keys, found, used)
            equalities = plan.equalities.get(relation.path, {})
            existing = [each for each in related if each is not None]
            if len(existing) < len(keys) - (0 if equalities else keys.count(None)):
                return False
            if not _fit(existing, equalities):
                return False
            for row, each in zip(rows, related, strict=True):
                relation.set(row, each)
            inner += [(each, existing) for each in relation.inner]
        return self._follow([each for each, _ in inner], [rows for _, rows in inner], found, used, plan)


def _all(relations: Sequence[Relation]) -> Iterator[Relation]:
    """Yield relations and those within them."""
    for each in relations:
        yield each
        yield from _all(each.inner)


def _read_side_by_side(managers: Sequence[Any], operations: Sequence[Any]) -> protocol.Operation[Found]:
    rows = yield from protocol.sharing_first_scatter(operations)
    return dict(zip(managers, rows, strict=True))


def _made(manager: Any, keys: Sequence[Any], found: Found, used: set[int]) -> list[Any]:
    """Return an instance for each primary key, as Django does if a row is named twice; None: no such row."""
    columns = found.get(manager, {})
    rows = []
    for key in keys:
        row = columns.get(key)
        if row is not None:
            if id(row) in used:  # a caller may change a list of one instance
                row = [each if type(each) in _UNCHANGEABLE else deepcopy(each) for each in row]
            else:
                used.add(id(row))
        rows.append(row)
    return manager.instances(rows)  # type: ignore[no-any-return]


def _fit(rows: Sequence[Any], equalities: Equalities) -> bool:
    """Return whether no row contradicts an equality of the query."""
    for field, texts in equalities.items():
        fitting: set[Any] = set()  # most rows have the same value
        for row in rows:
            # As it was read: the attribute of a file is an object also if the column is NULL
            read = row.__dict__
            value = read[field.attname] if field.attname in read else getattr(row, field.attname)
            if (value.__class__, value) in fitting:
                continue
            if (None if value is None else canonical_text(field, value)) not in texts:
                return False
            fitting.add((value.__class__, value))
    return True

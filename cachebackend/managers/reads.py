"""What is asked for rows: one, or many of them, by the primary key or a lookup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from django.db import models

from cachebackend import protocol
from cachebackend.backend.fill_rules import changed_keys
from cachebackend.backend.open_transactions import any_changed
from cachebackend.drivers import FailedNodes
from cachebackend.managers.keys import RowKeys
from cachebackend.managers.known_rows import KnownRows
from cachebackend.managers.lookups import Lookup
from cachebackend.managers.queries import RowQueries
from cachebackend.managers.ring_rows import Adapt, FillPolicy, Place, RingRows
from cachebackend.managers.rows import Row, RowShape

__all__ = ["UNKNOWN", "RowReads"]

M = TypeVar("M", bound=models.Model)
#: Returned by ``RowReads.cached_row`` instead of a row: ``get`` must find out.
UNKNOWN: Any = object()


class RowReads(RingRows[M]):
    """The operations that read rows of one model through the ring.

    The arguments are those of ``RingRows``.
    """

    def __init__(self, keys: RowKeys, shape: RowShape[M], queries: RowQueries[M], policy: FillPolicy) -> None:
        super().__init__(keys, shape, queries, policy)
        self._known = KnownRows()

    def cached_row(self, lookup: Lookup, value: Any, place: Place, failed: FailedNodes) -> Any:
        """Return the row that has a value if it is cached: most reads end here. It blocks.

        Args:
            lookup: The lookup.
            value: The value.
            place: Where rows are read.
            failed: The nodes that did not answer, for ``run`` of the operation that continues.

        Returns:
            None if it is cached that there is no such row. UNKNOWN if ``get`` must find out.
        """
        if lookup.is_pk:
            found = self._cached_value(lookup, value, place, failed)
            return None if found is None else self._cached_instance(found, lookup, value, place)
        pk = known = self._known.pk_of(lookup, value, place.scope)
        if known is None:
            pk = self._cached_value(lookup, value, place, failed)
            if pk is UNKNOWN or pk is None:
                return pk
        found = self._cached_value(self._keys.pk, pk, place, failed)
        instance = self._cached_instance(found, lookup, value, place)
        if instance is UNKNOWN:
            self._known.forget(lookup, value, place.scope)
        elif known is None:
            self._known.note(lookup, value, place.scope, pk)
        return instance

    def _cached_instance(self, found: Any, lookup: Lookup, value: Any, place: Place) -> Any:
        """Return the row in a cached value; UNKNOWN if there is none, or if it has not the value."""
        row = self._rows_of(lookup)(found, value)
        return UNKNOWN if row is None else self._shape.instance(row, place.using)

    def _cached_value(self, lookup: Lookup, value: Any, place: Place, failed: FailedNodes) -> Any:
        """Return what the key of a value holds; UNKNOWN if it must be loaded, or is not the truth here."""
        key = self.key(lookup, value, place)
        if key is None or (any_changed() and changed_keys((key,), place.using)):
            return UNKNOWN
        cache = place.cache
        return cache.client.get_fresh(self._context(cache), key, failed, missing=UNKNOWN)

    def get(self, lookup: Lookup, value: Any, place: Place, adapt: Adapt) -> protocol.Operation[M | None]:
        """Return the row that has a value; None: there is none."""
        known = None if lookup.is_pk else (yield from self._known_row(lookup, value, place, adapt))
        if known is not None:
            return self._shape.instance(known, place.using)
        key = self.key(lookup, value, place)
        if key is not None:
            rows, undecided = yield from self._rows(lookup, {key: value}, place, adapt)
            if not undecided:
                row = rows.get(key)
                if row is None:
                    return None
                if not lookup.is_pk:
                    self._known.note(lookup, value, place.scope, self._shape.pk(row))
                return self._shape.instance(row, place.using)
        instance: M | None = yield protocol.Load(adapt(partial(self._queries.instance, lookup, value)))
        return instance

    def _known_row(
        self, lookup: Lookup, value: Any, place: Place, adapt: Adapt
    ) -> protocol.Operation[Row | None]:
        """Return the row that last had a value, if it is cached and still has it; None otherwise."""
        pk = self._known.pk_of(lookup, value, place.scope)
        key = None if pk is None else self.key(self._keys.pk, pk, place)
        if key is None or (yield from self._changed_keys((key,), place, adapt)):
            return None
        found = yield from protocol.get_fresh(self._context(place.cache), key)
        row = self._rows_of(lookup)(found, value)
        if row is None:
            self._known.forget(lookup, value, place.scope)
        return row

    def in_bulk(
        self, lookup: Lookup, values: Iterable[Any], place: Place, adapt: Adapt
    ) -> protocol.Operation[dict[Any, M]]:
        """Return the rows that have one of some values; one query loads those that miss.

        A row is found by the key of its value, because a caller may write that in several ways, such
        as ``"1"`` and 1.

        Returns:
            The rows by their own value, in the order of ``values``. Rows without a key are last.
        """
        columns = yield from self.columns(lookup, values, place, adapt)
        return self._by_value(columns, place.using)

    def columns(
        self, lookup: Lookup, values: Iterable[Any], place: Place, adapt: Adapt
    ) -> protocol.Operation[dict[Any, Row]]:
        """Return the columns of the rows that ``in_bulk`` returns."""
        asked, without = self._by_key(lookup, values, place)
        rows, undecided = yield from self._rows(lookup, asked, place, adapt)
        found = [row for key in asked if (row := rows.get(key)) is not None]
        if unread := [*without, *undecided]:
            found += yield protocol.Load(adapt(partial(self._queries.rows, lookup, unread)))
        value_of = self._shape.values_of(lookup)
        return {value_of(row): row for row in found}

    def _by_value(self, columns: Mapping[Any, Row], using: str) -> dict[Any, M]:
        return dict(zip(columns, self._shape.instances(columns.values(), using), strict=True))

    def stored(self, lookup: Lookup, values: Sequence[Any], using: str) -> dict[Any, M]:
        """Return rows as the database has them, as ``in_bulk``."""
        order: dict[str | None, int] = {}
        for value in values:
            order.setdefault(lookup.text(value), len(order))
        value_of = self._shape.values_of(lookup)

        def position(row: Row) -> int:
            return order.get(lookup.text(value_of(row)), len(order))

        rows = sorted(self._queries.rows(lookup, values), key=position)
        return self._by_value({value_of(row): row for row in rows}, using)

    def stored_rows(self, pks: Iterable[Any]) -> dict[Any, Row]:
        """Return the columns of rows as the database has them, by primary key."""
        return {self._shape.pk(row): [*row] for row in self._queries.rows(self._keys.pk, list(pks))}

    def cached_rows(self, pks: Iterable[Any], place: Place) -> protocol.Operation[dict[Any, Row | None]]:
        """Return the cached columns of rows, by primary key; None for a cached absence. It fills nothing."""
        row_keys = {pk: key for pk in pks if (key := self.key(self._keys.pk, pk, place)) is not None}
        context = place.cache.client.context.for_strict()
        values = yield from protocol.get_many(context, row_keys)
        return {pk: None if value is None else self._shape.row(value) for pk, value in values.items()}

    def _by_key(
        self, lookup: Lookup, values: Iterable[Any], place: Place
    ) -> tuple[dict[bytes, Any], list[Any]]:
        """Return one value for each key, and the values that have no key."""
        named: dict[str, Any] = {}
        without: list[Any] = []
        values = list(values)
        for value, name in zip(values, self._keys.of_many(lookup, values, place.scope), strict=True):
            if name is not None:
                named.setdefault(name, value)
            elif value is not None:
                without.append(value)
        keys = place.cache.many_key_bytes([*named])
        return dict(zip(keys, named.values(), strict=True)), without

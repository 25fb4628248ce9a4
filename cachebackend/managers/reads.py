"""Reading rows through the ring, by the rules that hold for each row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from django.db import models

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.backend.fill_rules import changed_keys, row_guard
from cachebackend.backend.open_transactions import any_changed
from cachebackend.drivers import FailedNodes
from cachebackend.managers.keys import RowKeys
from cachebackend.managers.lookups import Lookup
from cachebackend.managers.queries import RowQueries
from cachebackend.managers.rows import Row, RowShape

__all__ = ["UNKNOWN", "Adapt", "FillPolicy", "Place", "RowReads"]

M = TypeVar("M", bound=models.Model)
#: Adapts a blocking loader to the driver that runs it.
Adapt = Callable[[Callable[..., Any]], Callable[..., Any]]
#: The values that are asked for, by key.
_Asked: TypeAlias = Mapping[bytes, Any]
#: The number of times that a lookup is read before a query by its value decides.
ATTEMPTS = 3
#: Returned by ``RowReads.cached_row`` instead of a row: ``get`` must find out.
UNKNOWN: Any = object()


class Place(NamedTuple):
    """Where rows are read.

    Attributes:
        using: The alias of their database.
        scope: The scope of their keys.
        cache: The cache that stores them.
    """

    using: str
    scope: str
    cache: RingCache


class FillPolicy(Protocol):
    """How rows are stored; the arguments of ``CachedManager``."""

    timeout: float | object | None
    stale_for: float | None
    missing_timeout: float | None
    is_strict: bool
    has_triggers: bool


class RowReads(Generic[M]):
    """The operations that read rows of one model through the ring.

    A cached lookup holds only a primary key. It may name a row that has another value now, or that
    does not exist any more, and the row may be renamed between the two reads:

        1. a reader loads the lookup: it names row 1;
        2. a writer renames row 1, and commits;
        3. the reader loads row 1, under its new name.

    So the row is compared with what was asked for. If it differs, the keys are deleted and read
    again, a few times; then one query by the value itself decides. The same holds for a value of
    another shape, which a process with another version of the model has filled.

    The lookup must be read each time. The row that had a value the last time cannot decide alone:

        1. writer B takes the value from row 1, and commits; its deletes are still under way;
        2. writer A gives the value to row 2, and is acknowledged;
        3. a reader finds row 1 as it was, with the value.

    A lookup that is not cached is loaded with its row, in one query, which also decides. That row is
    not filled: its lease would be younger than the query.

    Args:
        keys: The rows' keys.
        shape: How the rows are stored.
        queries: The queries that load rows.
        policy: How loaded rows are stored.
    """

    def __init__(self, keys: RowKeys, shape: RowShape[M], queries: RowQueries[M], policy: FillPolicy) -> None:
        self._keys = keys
        self._shape = shape
        self._queries = queries
        self._policy = policy

    def cached_row(self, lookup: Lookup, value: Any, place: Place, failed: FailedNodes) -> M | None:
        """Return the row that has a value if it is cached: most reads end here. It blocks.

        Args:
            lookup: The lookup.
            value: The value.
            place: Where rows are read.
            failed: The nodes that did not answer, for ``run`` of the operation that continues.

        Returns:
            None if it is cached that there is no such row. UNKNOWN if ``get`` must find out.
        """
        pk = value if lookup.is_pk else self._cached_value(lookup, value, place, failed)
        if pk is UNKNOWN or pk is None:
            return pk if not lookup.is_pk else UNKNOWN
        found = self._cached_value(self._keys.pk, pk, place, failed)
        if found is None and lookup.is_pk:
            return None
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
        key = self.key(lookup, value, place)
        if key is not None:
            rows, undecided = yield from self._rows(lookup, {key: value}, place, adapt)
            if not undecided:
                row = rows.get(key)
                return None if row is None else self._shape.instance(row, place.using)
        instance: M | None = yield protocol.Load(adapt(partial(self._queries.instance, lookup, value)))
        return instance

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

    def key(self, lookup: Lookup, value: Any, place: Place) -> bytes | None:
        """Return the key of the row that has this value; None if it has none."""
        key = self._keys.of(lookup, value, place.scope)
        return None if key is None else place.cache.key_bytes(key)

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

    # Rows through the ring

    def _rows(
        self, lookup: Lookup, asked: _Asked, place: Place, adapt: Adapt
    ) -> protocol.Operation[tuple[dict[bytes, Row], list[Any]]]:
        """Return the rows by the key of their value; those that do not exist are left out.

        Returns:
            The rows, and the values of which only a query by the value itself can decide.
        """
        rows: dict[bytes, Row] = {}
        for _ in range(ATTEMPTS):
            read = self._read_rows if lookup.is_pk else self._read_lookups
            found, wrong = yield from read(lookup, asked, place, adapt)
            rows |= found
            asked = {key: asked[key] for key in wrong}
            if not asked:
                break
            keys = [each for group in wrong.values() for each in group]
            yield from protocol.delete_many(place.cache.client.context, keys)
        return rows, [*asked.values()]

    def _read_rows(
        self, lookup: Lookup, asked: _Asked, place: Place, adapt: Adapt
    ) -> protocol.Operation[tuple[dict[bytes, Row], dict[bytes, list[bytes]]]]:
        """Read rows by primary key.

        Returns:
            The rows by key; and for each key whose value is not the row's, the keys to delete.
        """
        values = yield from self._load(lookup, asked, place, adapt, rows={})
        row_of = self._rows_of(lookup)
        rows: dict[bytes, Row] = {}
        wrong: dict[bytes, list[bytes]] = {}
        for key, value in values.items():
            row = row_of(value, asked[key])
            if row is None:
                wrong[key] = [key]
            else:
                rows[key] = row
        return rows, wrong

    def _read_lookups(
        self, lookup: Lookup, asked: _Asked, place: Place, adapt: Adapt
    ) -> protocol.Operation[tuple[dict[bytes, Row], dict[bytes, list[bytes]]]]:
        """Read rows by the primary keys of a lookup, as ``_read_rows``; a loaded lookup has its row."""
        found: dict[bytes, Row] = {}
        pks = yield from self._load(lookup, asked, place, adapt, rows=found)
        named = {key: pk for key, pk in pks.items() if key not in found}
        row_keys = {key: self.key(self._keys.pk, pk, place) for key, pk in named.items()}
        of_rows = {row_key: named[key] for key, row_key in row_keys.items() if row_key is not None}
        rows, _ = yield from self._read_rows(self._keys.pk, of_rows, place, adapt)
        value_of = self._shape.values_of(lookup)
        wrong: dict[bytes, list[bytes]] = {}
        for key, row_key in row_keys.items():
            row = None if row_key is None else rows.get(row_key)
            if row is not None and lookup.are_equal(value_of(row), asked[key]):
                found[key] = row
            else:
                wrong[key] = [key] if row_key is None else [key, row_key]
        return found, wrong

    def _rows_of(self, lookup: Lookup) -> Callable[[Any, Any], Row | None]:
        """Return a function of the row in a cached value; None if it is not a row that has a value."""
        row_of, value_of, are_equal = self._shape.row, self._shape.values_of(lookup), lookup.are_equal

        def row_with(cached: Any, value: Any) -> Row | None:
            row = row_of(cached)
            return row if row is not None and are_equal(value_of(row), value) else None

        return row_with

    def _load(
        self, lookup: Lookup, asked: _Asked, place: Place, adapt: Adapt, *, rows: dict[bytes, Row]
    ) -> protocol.Operation[dict[bytes, Any]]:
        """Return what the keys hold, or are filled with; absent rows are left out.

        The rows that the open transaction has changed are read past the ring: what is cached is older,
        and the changed row must not be filled before the commit.

        Args:
            lookup: The lookup.
            asked: The values.
            place: Where rows are read.
            adapt: Adapts the loader.
            rows: The rows that are loaded are added to it.
        """
        if not asked:
            return {}
        changed = yield from self._changed_keys(asked.keys(), place, adapt)
        cacheable = {key: key for key in asked if key not in changed}
        load = partial(self._load_values, lookup, asked, place, rows)
        loader = adapt(row_guard(load, place.using, list(cacheable), has_triggers=self._policy.has_triggers))
        values = yield from protocol.get_or_load_many(
            self._context(place.cache), cacheable, loader, self._fill_options(place.cache)
        )
        if changed:
            values |= yield protocol.Load(adapt(partial(load, changed)))
        return {
            key: value for key, value in values.items() if value is not protocol.MISSING and value is not None
        }

    def _load_values(
        self, lookup: Lookup, asked: _Asked, place: Place, rows: dict[bytes, Row], keys: Iterable[bytes]
    ) -> dict[bytes, Any]:
        """Load the rows of keys; return what to cache for each key whose row exists."""
        keys = list(keys)
        loaded = self._queries.rows(lookup, [asked[key] for key in keys])
        if len(keys) == 1:  # the database has compared the value
            by_key = dict(zip(keys, loaded, strict=False))
        else:
            own_value = self._shape.values_of(lookup)
            named = ((self.key(lookup, own_value(row), place), row) for row in loaded)
            by_key = {key: row for key, row in named if key is not None}
        rows.update(by_key)
        value_of = self._shape.value if lookup.is_pk else self._shape.pk
        return {key: value_of(row) for key, row in by_key.items()}

    def _changed_keys(
        self, keys: Collection[bytes], place: Place, adapt: Adapt
    ) -> protocol.Operation[set[bytes]]:
        """Return those of the keys whose rows the open transaction of the loader's thread has changed."""
        if not any_changed():
            return set()
        question = partial(changed_keys, keys, place.using)
        changed: set[bytes] = yield protocol.Ask(question, adapt(question))
        return changed

    def _context(self, cache: RingCache) -> protocol.Context:
        """Return the cache's context; for strict rows without gutter and near cache.

        They have no quarantine.
        """
        context = cache.client.context
        return context.for_strict() if self._policy.is_strict else context

    def _fill_options(self, cache: RingCache) -> protocol.FillOptions:
        fill_options = cache.fill_options(self._policy.timeout, self._policy.stale_for)
        return (
            fill_options
            if self._policy.missing_timeout is None
            else fill_options.with_missing_timeout(self._policy.missing_timeout)
        )

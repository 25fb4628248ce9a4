"""Reading rows through the ring, by the rules that hold for each row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from django.db import models

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.backend.fill_rules import changed_keys, row_guard
from cachebackend.backend.open_transactions import any_changed
from cachebackend.managers.keys import RowKeys
from cachebackend.managers.queries import RowQueries
from cachebackend.managers.rows import RowShape

__all__ = ["Adapt", "FillPolicy", "Place", "RowReads"]

M = TypeVar("M", bound=models.Model)
#: Adapts a blocking loader to the driver that runs it.
Adapt = Callable[[Callable[..., Any]], Callable[..., Any]]
#: The number of times that a lookup is read before a query by its value decides.
ATTEMPTS = 3


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


class RowReads(Generic[M]):
    """The operations that read rows of one model through the ring.

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

    def get(
        self, field: models.Field[Any, Any], value: Any, place: Place, adapt: Adapt
    ) -> protocol.Operation[M | None]:
        """Return the row that has a value in a field; None: there is none.

        A cached lookup may name a row that has another value now, or that does not exist any more,
        and the row may be renamed between the two reads:

            1. a reader loads the lookup: it names row 1;
            2. a writer renames row 1, and commits;
            3. the reader loads row 1, under its new name.

        So the row is compared with what was asked for. If it differs, the keys are deleted and read
        again, a few times; then one query by the value itself decides. The same holds for a value of
        another shape, which a process with another version of the model has filled.
        """
        key, pk_field = self.key(field, value, place), self._keys.pk
        for _ in range(ATTEMPTS):
            pk, row_key = value, key
            if field is not pk_field and key is not None:
                pk = yield from self._load(key, partial(self._queries.pk, field, value), place, adapt)
                if _is_absent(pk):
                    return None
                row_key = self.key(pk_field, pk, place)
            if key is None or row_key is None:
                break
            found = yield from self._load(row_key, partial(self._queries.row, pk), place, adapt)
            if _is_absent(found):
                if field is pk_field:
                    return None
            else:
                row = self._shape.row(found)
                if row is not None and self._is_row(row, pk, field, value):
                    return self._shape.instance(row, place.using)
            yield from protocol.delete_many(place.cache.client.context, [key, row_key])
        instance: M | None = yield protocol.Load(adapt(partial(self._queries.instance, field, value)))
        return instance

    def _is_row(self, row: Sequence[Any], pk: Any, field: models.Field[Any, Any], value: Any) -> bool:
        """Return whether a row has a primary key, and a value in a field, as the database compares them."""
        if not self._keys.are_equal(self._keys.pk, self._shape.pk(row), pk):
            return False
        if field is self._keys.pk:
            return True
        return self._keys.are_equal(field, row[self._shape.positions[field.attname]], value)

    def in_bulk(self, pks: Iterable[Any], place: Place, adapt: Adapt) -> protocol.Operation[dict[Any, M]]:
        """Return the rows with these primary keys; one query loads those that miss.

        A row is found by the key of its primary key, because a caller may write that in several
        ways, such as ``"1"`` and 1.

        Returns:
            The rows by their own primary key, in the order of ``pks``. Rows without a key are last.
        """
        asked, unread = self._by_key(pks, place)
        rows: dict[bytes, Sequence[Any] | None] = {}
        wanted = asked
        for _ in range(ATTEMPTS):
            rows |= yield from self._load_many(wanted, place, adapt)
            wanted = {key: pk for key, pk in wanted.items() if key in rows and rows[key] is None}
            if not wanted:
                break
            yield from protocol.delete_many(place.cache.client.context, list(wanted))
        others: dict[Any, Sequence[Any]] = {}
        if unread := [*unread, *wanted.values()]:
            others = yield protocol.Load(adapt(partial(self.stored_rows, unread)))
        found = [row for key in asked if (row := rows.get(key)) is not None]
        return self._instances((*found, *others.values()), place.using)

    def stored(self, pks: Sequence[Any], using: str) -> dict[Any, M]:
        """Return rows as the database has them, by primary key, in the order of ``pks``."""
        pk_field = self._keys.pk
        texts = [self._keys.of(pk_field, pk, "") for pk in pks]
        order = {text: position for position, text in enumerate(texts)}
        rows = self.stored_rows(pks)
        by_order = sorted(rows, key=lambda pk: order.get(self._keys.of(pk_field, pk, ""), len(texts)))
        return self._instances((rows[pk] for pk in by_order), using)

    def stored_rows(self, pks: Iterable[Any]) -> dict[Any, Sequence[Any]]:
        """Return the columns of rows as the database has them, by primary key."""
        values = self._queries.rows(list(pks))
        return {pk: row for pk, value in values.items() if (row := self._shape.row(value)) is not None}

    def _instances(self, rows: Iterable[Sequence[Any]], using: str) -> dict[Any, M]:
        return {self._shape.pk(row): self._shape.instance(row, using) for row in rows}

    def _by_key(self, pks: Iterable[Any], place: Place) -> tuple[dict[bytes, Any], list[Any]]:
        """Return one primary key for each key, and the primary keys that have no key."""
        by_key: dict[bytes, Any] = {}
        without: list[Any] = []
        for pk in pks:
            key = self.key(self._keys.pk, pk, place)
            if key is None:
                without.append(pk)
            else:
                by_key.setdefault(key, pk)
        return by_key, without

    def _load_many(
        self, asked: Mapping[bytes, Any], place: Place, adapt: Adapt
    ) -> protocol.Operation[dict[bytes, Sequence[Any] | None]]:
        """Read many rows by the same rules as ``_load``; a value that is not the row's is None.

        Args:
            asked: The primary key for each key.
            place: Where rows are read.
            adapt: Adapts the loader.
        """
        changed = yield from self._changed_keys(asked.keys(), place, adapt)
        cacheable = {key: key for key in asked if key not in changed}
        load = partial(self._values, asked, place)
        loader = adapt(row_guard(load, place.using, list(cacheable)))
        values = yield from protocol.get_or_load_many(
            self._context(place.cache), cacheable, loader, self._fill_options(place.cache)
        )
        if changed:
            values |= yield protocol.Load(adapt(partial(load, changed)))
        pk_field = self._keys.pk
        rows = [(key, self._shape.row(value)) for key, value in values.items() if not _is_absent(value)]
        return {
            key: row if row and self._keys.are_equal(pk_field, self._shape.pk(row), asked[key]) else None
            for key, row in rows
        }

    def _values(self, asked: Mapping[bytes, Any], place: Place, keys: Iterable[bytes]) -> dict[bytes, Any]:
        """Return the values to cache for keys; the key of a row that does not exist is left out."""
        values = self._queries.rows([asked[key] for key in keys])
        by_key = {self.key(self._keys.pk, pk, place): value for pk, value in values.items()}
        return {key: value for key, value in by_key.items() if key is not None}

    def _load(
        self, key: bytes, loader: Callable[[], Any], place: Place, adapt: Adapt
    ) -> protocol.Operation[Any]:
        """Read a key through the ring; past the ring if the open transaction has changed the row.

        The cached value is then older than the row, and the changed row must not be filled before
        the commit.
        """
        if any_changed() and (yield from self._changed_keys((key,), place, adapt)):
            return (yield protocol.Load(adapt(loader)))
        guarded = adapt(row_guard(loader, place.using, (key,)))
        context, fill_options = self._context(place.cache), self._fill_options(place.cache)
        return (yield from protocol.get_or_load(context, key, guarded, fill_options))

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

    def cached_rows(
        self, pks: Iterable[Any], place: Place
    ) -> protocol.Operation[dict[Any, Sequence[Any] | None]]:
        """Return the cached columns of rows, by primary key; None for a cached absence. It fills nothing."""
        row_keys = {pk: key for pk in pks if (key := self.key(self._keys.pk, pk, place)) is not None}
        context = place.cache.client.context.for_strict()
        values = yield from protocol.get_many(context, row_keys)
        return {pk: None if value is None else self._shape.row(value) for pk, value in values.items()}

    def key(self, field: models.Field[Any, Any], value: Any, place: Place) -> bytes | None:
        """Return the key of the row that has this value in a field; None if it has none."""
        key = self._keys.of(field, value, place.scope)
        return None if key is None else place.cache.key_bytes(key)


def _is_absent(value: Any) -> bool:
    """Return whether a loaded or cached value says that the row does not exist."""
    return value is protocol.MISSING or value is None

"""``RowsByKey``: reads rows of a model through the ring, each from an entry of its own."""

from __future__ import annotations

from asyncio import _get_running_loop  # returns None where get_running_loop raises, which is slow
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from math import isnan
from typing import Any, Generic, TypeVar

from asgiref.sync import sync_to_async
from django.db import models
from django.utils.asyncio import async_unsafe

from cachebackend import protocol
from cachebackend.backend import RingCache, find_ring_cache, ring_cache
from cachebackend.backend.scope import databases_of_write, is_asked_in_thread, scope_of, scopes_of_write
from cachebackend.drivers import FailedNodes
from cachebackend.managers.keys import LookupNames, NoKeys, RowKeys
from cachebackend.managers.queries import RowQueries
from cachebackend.managers.reads import UNKNOWN, Place, RowReads
from cachebackend.managers.rows import Row, RowShape
from cachebackend.properties import cached_property

__all__ = ["RowsByKey"]

M = TypeVar("M", bound=models.Model)


class RowsByKey(Generic[M]):
    """Reads rows of its model through the ring by their primary keys, or by the values of their lookups.

    Attributes:
        model: The model.
        name: The name of the manager on the model.
        lookups: What rows are looked up by, beside the primary key.
        timeout: Seconds until a cached row expires.
        cache_alias: The cache alias.
        base_manager: The name of the manager through which rows are loaded; None: Django's ``_base_manager``.
        is_strict: Whether the keys are quarantined while a row is written.
        writes_through: Whether a changed row is loaded again.
        missing_timeout: Seconds for which the absence of a row is cached; None: it is not cached.
        stale_for: Seconds after its timeout in which an old row may be served.
    """

    model: type[M]
    name: str
    lookups: tuple[LookupNames, ...]
    timeout: float | object | None
    cache_alias: str
    base_manager: str | None
    is_strict: bool
    has_triggers: bool
    writes_through: bool
    missing_timeout: float | None
    stale_for: float | None
    _db: str | None

    def get_queryset(self) -> Any:
        """Return a queryset, which reads what is not asked for by a key."""
        raise NotImplementedError

    # Reading

    def get(self, *args: Any, **lookup: Any) -> M:
        """Return the row with this primary key, with these values of a lookup, or else of this query.

        A value that has no key is asked of the database: None, for example, or text for a number.

        Raises:
            DoesNotExist: There is no such row.
            MultipleObjectsReturned: The query has several rows.
            ImproperlyConfigured: The fields are one of ``lookups`` that cannot be used: a column of theirs
                holds different texts equal, for example.
            SynchronousOnlyOperation: An event loop runs in this thread; use ``aget``.
        """
        if _get_running_loop() is not None:
            _refuse_in_event_loop()
        by_key = self._keys.asked(lookup)
        if by_key is None or args or self._db is not None:
            row: M = self.get_queryset().get(*args, **lookup)
            return row
        asked, value = by_key
        place = self._place
        if place is None:
            return self._or_raise(self._queries.instance(asked, value), lookup)
        failed: FailedNodes = {}
        found = self._reads.cached_row(asked, value, place, failed)
        if found is UNKNOWN:
            found = place.cache.client.run(self._reads.get(asked, value, place, _blocking), failed)
        return self._or_raise(found, lookup)

    async def aget(self, *args: Any, **lookup: Any) -> M:
        """Return a row; arguments and errors as for ``get``."""
        by_key = self._keys.asked(lookup)
        if by_key is None or args or self._db is not None:
            row: M = await self.get_queryset().aget(*args, **lookup)
            return row
        asked, value = by_key
        place = await self._aplace()
        if place is None:
            return self._or_raise(await sync_to_async(self._queries.instance)(asked, value), lookup)
        operation = self._reads.get(asked, value, place, sync_to_async)
        return self._or_raise(await place.cache.client.arun(operation), lookup)

    def in_bulk(self, id_list: Iterable[Any] | None = None, *, field_name: str = "pk") -> dict[Any, M]:
        """Return the rows that have one of these values in a unique field, by what its column holds.

        Without values: all rows.

        One query loads the rows that are not cached. If lookups are cached whose rows are not, a second
        query loads these rows.

        Raises:
            ValueError: The field is not unique.
            SynchronousOnlyOperation: An event loop runs in this thread; use ``ain_bulk``.
        """
        if _get_running_loop() is not None:
            _refuse_in_event_loop()
        by_key = None if id_list is None else self._keys.asked({field_name: None})
        if id_list is None or by_key is None or self._db is not None:
            found: dict[Any, M] = self.get_queryset().in_bulk(id_list, field_name=field_name)
            return found
        place = self._place
        if place is None:
            return self._reads.stored(by_key[0], list(id_list), self._using)
        return place.cache.client.run(self._reads.in_bulk(by_key[0], id_list, place, _blocking))

    async def ain_bulk(self, id_list: Iterable[Any] | None = None, *, field_name: str = "pk") -> dict[Any, M]:
        """Return the rows that have one of these values in a unique field, as ``in_bulk``."""
        by_key = None if id_list is None else self._keys.asked({field_name: None})
        if id_list is None or by_key is None or self._db is not None:
            found: dict[Any, M] = await self.get_queryset().ain_bulk(id_list, field_name=field_name)
            return found
        lookup, keys = by_key[0], id_list
        place = await self._aplace()
        if place is None:
            return await sync_to_async(self._reads.stored)(lookup, list(keys), self._using)
        return await place.cache.client.arun(self._reads.in_bulk(lookup, keys, place, sync_to_async))

    @property
    def database(self) -> str:
        """The alias of the database that rows are read from."""
        return self._using

    def reading(self, keys: Iterable[Any]) -> protocol.Operation[dict[Any, Row]] | None:
        """Return the operation that reads the columns of rows by primary key; None: there is no ring."""
        place = self._place
        return None if place is None else self._reads.columns(self._keys.pk, keys, place, _blocking)

    def instances(self, rows: Iterable[Row | None]) -> list[M | None]:
        """Return an instance for each row, given its columns; None for None."""
        rows = list(rows)
        made = iter(self._shape.instances([row for row in rows if row is not None], self._using))
        return [None if row is None else next(made) for row in rows]

    # Changes of rows

    @property
    def caches_absence(self) -> bool:
        """Whether a key may record that a row does not exist."""
        return self.missing_timeout is not None

    def refill(self, keys: Iterable[Any]) -> None:
        """Load rows again, under new leases, if the manager writes through.

        Each row is read after its lease is held, and the read sees everything that is committed by
        then. So if two writers refill the same row, the older version cannot remain in the cache.
        """
        if self.writes_through and (pks := list(keys)):
            self.in_bulk(pks)

    # Auditing

    def cached_rows(self, keys: Iterable[Any]) -> dict[Any, Sequence[Any] | None]:
        """Return the cached columns of rows, by primary key; None for a cached absence. Fills nothing."""
        using, cache = self._using, self.cache
        place = Place(using, scope_of(using), cache)
        return cache.client.run(self._reads.cached_rows(keys, place))

    def differing(self, keys: Iterable[Any]) -> list[Any]:
        """Return the primary keys of the cached rows that differ from those in the database.

        The cache is read first. If a row is written in between, the database has a newer row than
        the cache; by the next comparison the old one is no longer cached.
        """
        cached = self.cached_rows(keys)
        stored = self._reads.stored_rows(cached)
        return [pk for pk, row in cached.items() if not _are_same(row, stored.get(pk))]

    # Keys

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that keys are made of, by attribute name."""
        return self._keys.columns

    @property
    def lookup_fields(self) -> list[models.Field[Any, Any]]:
        """The fields by which rows are looked up, beside the primary key."""
        return [field for lookup in self._keys.lookups for field in lookup.fields]

    @property
    def faults(self) -> list[str]:
        """Why lookups cannot be used, one sentence for each."""
        return list(self._keys.faults.values())

    @property
    def has_keys(self) -> bool:
        """Whether rows are cached: Python must know which primary keys the database holds equal."""
        return self._keys.exist

    def keys_of(self, rows: Sequence[Mapping[str, Any]], using: str) -> list[bytes]:
        """Return the keys of rows: of their primary keys, and of those lookup values that are known."""
        return self.cache.many_key_bytes(self._keys.of_rows(rows, scopes_of_write(using)))

    def prefixes(self, using: str) -> list[tuple[str, str]]:
        """Return what the keys of all rows in a database begin with."""
        return self._keys.prefixes(databases_of_write(using))

    def key_of(self, **lookup: Any) -> str:
        """Return the cache key of a row's primary key or lookup value, in the current namespace."""
        by_key = self._keys.asked(lookup)
        key = None if by_key is None else self._keys.of(*by_key, scope_of(self._using))
        if key is None:
            message = f"{self.model.__name__} with {_shown(lookup)} is not cached"
            raise ValueError(message)
        return key

    @property
    def _place(self) -> Place | None:
        """Where rows are read; None if the alias has no ring cache."""
        cache = find_ring_cache(self.cache_alias)
        if cache is None:
            return None
        using = self._using
        return Place(using, scope_of(using), cache)

    async def _aplace(self) -> Place | None:
        """Return the place; the scope is asked for in the thread in which queries run."""
        if not is_asked_in_thread():
            return self._place
        return await sync_to_async(lambda: self._place)()

    @cached_property
    def _keys(self) -> RowKeys:
        managers = (each for each in vars(self.model).values() if isinstance(each, RowsByKey))
        first = next(managers, self)
        # A row that exists for one manager may not exist for another
        name = self.name if first.base_manager != self.base_manager else ""
        return (RowKeys if self.reads_every_row else NoKeys)(self.model, self.lookups, name)

    @property
    def reads_every_row(self) -> bool:
        """Whether a row can be read by its key alone: the queryset leaves out none, and adds nothing."""
        return True

    @cached_property
    def _shape(self) -> RowShape[M]:
        return RowShape(self.model, self.base_manager)

    @cached_property
    def _queries(self) -> RowQueries[M]:
        return RowQueries(self._shape, self.base_manager, caches_absence=self.caches_absence)

    @cached_property
    def _reads(self) -> RowReads[M]:
        return RowReads(self._keys, self._shape, self._queries, policy=self)

    @property
    def _using(self) -> str:
        return self._queries.using

    @property
    def cache(self) -> RingCache:
        """The ring cache that stores the rows.

        Raises:
            ImproperlyConfigured: The alias is not a ring cache.
        """
        return ring_cache(self.cache_alias, "CachedManager")

    def _or_raise(self, row: M | None, lookup: dict[str, Any]) -> M:
        if row is None:
            message = f"{self.model.__name__} with {_shown(lookup)} does not exist."
            raise self.model.DoesNotExist(message)  # type: ignore[attr-defined]  # Django makes it for every model
        return row


def _are_same(cached: Any, stored: Any) -> bool:
    """Return whether two rows, or values in them, are the same; NaN does not equal itself.

    The ``repr`` of values does not decide: that of an object of a field may leave out a part of its value.
    """
    if cached == stored:
        return True
    if isinstance(cached, list | tuple) and isinstance(stored, list | tuple):
        return len(cached) == len(stored) and all(map(_are_same, cached, stored))
    if isinstance(cached, dict) and isinstance(stored, dict):
        return cached.keys() == stored.keys() and all(_are_same(cached[key], stored[key]) for key in cached)
    are_numbers = isinstance(cached, float | Decimal) and type(cached) is type(stored)
    return are_numbers and isnan(cached) and isnan(stored)


@async_unsafe("Use aget() or ain_bulk(): you cannot call this from an async context.")
def _refuse_in_event_loop() -> None:
    """Raise as a query would, whether the row is cached or not."""


def _shown(lookup: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in lookup.items())


def _blocking(loader: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loader unchanged: the blocking driver calls it as it is."""
    return loader

"""``CachedManager``: reads single rows of a model through the ring."""

from __future__ import annotations

from asyncio import _get_running_loop  # returns None where get_running_loop raises, which is slow
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.signals import class_prepared
from django.utils.asyncio import async_unsafe

from cachebackend.backend import RingCache, find_ring_cache, ring_cache
from cachebackend.backend.scope import databases_of_write, is_asked_in_thread, scope_of, scopes_of_write
from cachebackend.drivers import FailedNodes
from cachebackend.inherited import inherited_attributes
from cachebackend.invalidation import watch, watch_tags
from cachebackend.invalidation.watched import is_historical
from cachebackend.managers.keys import LookupNames, RowKeys
from cachebackend.managers.queries import RowQueries
from cachebackend.managers.reads import UNKNOWN, Place, RowReads
from cachebackend.managers.rows import RowShape

__all__ = ["CachedManager"]

M = TypeVar("M", bound=models.Model)


class CachedManager(Generic[M]):
    """Reads single rows of its model through the ring: ``Article.cached.get(slug="x")``.

    Args:
        lookups: What rows are looked up by, beside the primary key: a unique field, or a tuple with the
            fields of a ``UniqueConstraint`` that has no condition, as in ``["slug", ("shop", "sku")]``.
        timeout: Seconds until a cached row expires. Default: the timeout of the cache alias.
        alias: The cache alias. If it has another backend, as in development, rows are not cached.
        consistency: ``"commit"``: a row is invalidated after its commit. If the process dies
            before it deletes the keys, the old row is served until the relay deletes them.
            ``"strict"``: the keys are quarantined before the write, and no reader gets a row that
            is older than an acknowledged commit; a write fails if it cannot reach the node.
        write: ``"invalidate"``, or ``"through"``: after the commit the row is loaded again.
        missing_timeout: Seconds for which the absence of a row is cached; None: it is not cached.
        stale_for: Seconds after its timeout in which an old row may be served while one caller
            loads it again. Default: the alias' option. Strict rows are never served stale.
        triggers: Whether triggers on the model's table notice changes that Django does not see:
            raw SQL, other programs, cascades of the database. This needs Postgres,
            django-pgtrigger and a migration from ``makemigrations``.
        base_manager: The name of the model's manager through which rows are loaded, such as
            ``"objects"``; a row that its queryset leaves out does not exist. The queryset may
            filter by columns of the row alone, because only a write to the row deletes its keys.
            Default: Django's ``_base_manager``, which has every row.

    On an abstract model each concrete child gets its own manager with these options; so do the
    children and proxies of a model, unless they define the attribute.

    A row is loaded from the database that its model is written to, and after the lease is held.
    So a row from before a write is never filled after the write.
    """

    model: type[M]
    name: str
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments: the models that inherit the manager get copies."""
        manager = super().__new__(cls)
        manager._arguments = args, kwargs
        return manager

    def __init__(
        self,
        lookups: Sequence[LookupNames] = (),
        timeout: float | object | None = DEFAULT_TIMEOUT,
        alias: str = "default",
        *,
        consistency: str = "commit",
        write: str = "invalidate",
        missing_timeout: float | None = None,
        stale_for: float | None = None,
        triggers: bool = False,
        base_manager: str | None = None,
    ) -> None:
        self.name = "cached"  # until the manager is an attribute of a model
        self.base_manager = base_manager
        self.has_triggers = triggers
        self.lookups = tuple(lookups)
        self.timeout = timeout
        self.alias = alias
        self.is_strict = _choice("consistency", consistency, ("commit", "strict")) == "strict"
        self.writes_through = _choice("write", write, ("invalidate", "through")) == "through"
        self.missing_timeout = missing_timeout
        self.stale_for = 0.0 if self.is_strict else stale_for

    def contribute_to_class(self, model: type[M], name: str) -> None:
        """Become an attribute of the model, and watch its rows. Django calls it."""
        self.model, self.name = model, name
        setattr(model, name, self)
        if not model._meta.abstract and not is_historical(model):
            if self.has_triggers:
                _add_triggers(model, name)
            watch(model, self)
            watch_tags(model)
        for child in model.__subclasses__():  # if the manager is added to a class that exists already
            _copy_inherited(sender=child)

    def __get__(self, instance: None, owner: type[models.Model]) -> Self:
        """Return the manager to the class; instances and abstract models have none, as in Django."""
        if instance is not None:
            message = f"{self.name!r} is a manager of the class {owner.__name__}, not of its instances"
            raise AttributeError(message)
        if owner._meta.abstract:
            message = f"{owner.__name__} is abstract; its children have {self.name!r}"
            raise AttributeError(message)
        return self

    # Reading

    def get(self, **lookup: Any) -> M:
        """Return the row with this primary key, or with this value of each field of a lookup.

        A value that has no key is asked of the database: None, for example, or text for a number.

        Raises:
            DoesNotExist: There is no such row.
            TypeError: No field is given.
            ImproperlyConfigured: The fields are not one of ``lookups``, or a column of theirs holds
                different texts equal.
            SynchronousOnlyOperation: An event loop runs in this thread; use ``aget``.
        """
        if _get_running_loop() is not None:
            _refuse_in_event_loop()
        asked, value = self._keys.asked(lookup)
        place = self._place
        if place is None:
            return self._or_raise(self._queries.instance(asked, value), lookup)
        failed: FailedNodes = {}
        row = self._reads.cached_row(asked, value, place, failed)
        if row is UNKNOWN:
            row = place.cache.client.run(self._reads.get(asked, value, place, _blocking), failed)
        return self._or_raise(row, lookup)

    async def aget(self, **lookup: Any) -> M:
        """Return the row with this primary key or lookup value; raises as ``get``."""
        asked, value = self._keys.asked(lookup)
        place = await self._aplace()
        if place is None:
            return self._or_raise(await sync_to_async(self._queries.instance)(asked, value), lookup)
        operation = self._reads.get(asked, value, place, sync_to_async)
        return self._or_raise(await place.cache.client.arun(operation), lookup)

    def in_bulk(self, keys: Iterable[Any], *, field_name: str = "pk") -> dict[Any, M]:
        """Return the rows that have one of these keys in a field, by what its column holds.

        One query loads the rows that are not cached. If lookups are cached whose rows are not, a second
        query loads these rows.

        Raises:
            ImproperlyConfigured: The field is neither the primary key nor one of ``lookups``.
            SynchronousOnlyOperation: An event loop runs in this thread; use ``ain_bulk``.
        """
        if _get_running_loop() is not None:
            _refuse_in_event_loop()
        lookup, _ = self._keys.asked({field_name: None})
        place = self._place
        if place is None:
            return self._reads.stored(lookup, list(keys), self._using)
        return place.cache.client.run(self._reads.in_bulk(lookup, keys, place, _blocking))

    async def ain_bulk(self, keys: Iterable[Any], *, field_name: str = "pk") -> dict[Any, M]:
        """Return the rows that have one of these keys in a field, as ``in_bulk``."""
        lookup, _ = self._keys.asked({field_name: None})
        place = await self._aplace()
        if place is None:
            return await sync_to_async(self._reads.stored)(lookup, list(keys), self._using)
        return await place.cache.client.arun(self._reads.in_bulk(lookup, keys, place, sync_to_async))

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
        return [pk for pk, row in cached.items() if row != stored.get(pk)]

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
        asked, value = self._keys.asked(lookup)
        key = self._keys.of(asked, value, scope_of(self._using))
        if key is None:
            message = f"{self.model.__name__} with {_shown(lookup)} is not cached"
            raise ValueError(message)
        return key

    @property
    def _place(self) -> Place | None:
        """Where rows are read; None if the alias has no ring cache."""
        cache = find_ring_cache(self.alias)
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
        managers = (each for each in vars(self.model).values() if isinstance(each, CachedManager))
        first = next(managers, self)
        # A row that exists for one manager may not exist for another
        return RowKeys(self.model, self.lookups, self.name if first.base_manager != self.base_manager else "")

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
        return ring_cache(self.alias, "CachedManager")

    def _or_raise(self, row: M | None, lookup: dict[str, Any]) -> M:
        if row is None:
            message = f"{self.model.__name__} with {_shown(lookup)} does not exist."
            raise self.model.DoesNotExist(message)  # type: ignore[attr-defined]  # Django makes it for every model
        return row


def _copy_inherited(*, sender: type[models.Model], **_: Any) -> None:
    """Give a model its own copy of each CachedManager that it inherits."""
    for name, manager in inherited_attributes(sender, CachedManager).items():
        args, kwargs = manager._arguments
        type(manager)(*args, **kwargs).contribute_to_class(sender, name)


class_prepared.connect(_copy_inherited, dispatch_uid="ringcache:cached")


def _add_triggers(model: type[models.Model], name: str) -> None:
    try:
        from cachebackend.invalidation import triggers
    except ImportError as error:
        message = (
            f"{model.__name__}.{name}: triggers=True needs django-pgtrigger: "
            "pip install 'django-ringcache[triggers]'"
        )
        raise ImproperlyConfigured(message) from error
    triggers.add_triggers(model)


@async_unsafe("Use aget() or ain_bulk(): you cannot call this from an async context.")
def _refuse_in_event_loop() -> None:
    """Raise as a query would, whether the row is cached or not."""


def _choice(name: str, choice: str, choices: tuple[str, ...]) -> str:
    if choice not in choices:
        message = f"CachedManager({name}=…) must be one of {', '.join(choices)}, got {choice!r}"
        raise ImproperlyConfigured(message)
    return choice


def _shown(lookup: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in lookup.items())


def _blocking(loader: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loader unchanged: the blocking driver calls it as it is."""
    return loader

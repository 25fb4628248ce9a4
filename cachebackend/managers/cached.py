"""``CachedManager``: reads single rows of a model through the ring."""

from __future__ import annotations

import inspect
from asyncio import _get_running_loop  # returns None where get_running_loop raises, which is slow
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Generic, NamedTuple, Self, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.signals import class_prepared
from django.utils.asyncio import async_unsafe

from cachebackend import protocol
from cachebackend.backend import RingCache, find_ring_cache, ring_cache
from cachebackend.backend.fill_rules import changed_keys, row_guard
from cachebackend.backend.open_transactions import any_changed
from cachebackend.backend.scope import databases_of_write, scope_of, scopes_of_write
from cachebackend.conf import namespace_function
from cachebackend.invalidation import watch, watch_tags
from cachebackend.invalidation.watched import is_historical
from cachebackend.managers.keys import RowKeys
from cachebackend.managers.queries import RowQueries
from cachebackend.managers.rows import RowShape

__all__ = ["CachedManager"]

M = TypeVar("M", bound=models.Model)
#: Adapts a blocking loader to the driver that runs it.
Adapt = Callable[[Callable[..., Any]], Callable[..., Any]]
#: The number of times that a lookup is read before a query by its value decides.
ATTEMPTS = 3


class _Place(NamedTuple):
    """Where rows are read.

    Attributes:
        using: The alias of their database.
        scope: The scope of their keys.
        cache: The cache that stores them.
    """

    using: str
    scope: str
    cache: RingCache


class CachedManager(Generic[M]):
    """Reads single rows of its model through the ring: ``Article.cached.get(slug="x")``.

    Args:
        lookups: Unique fields, beside the primary key, by which rows are looked up.
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
        lookups: Sequence[str] = (),
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
        """Return the row with this primary key or lookup value.

        A value that has no key is asked of the database: None, for example, or text for a number.

        Raises:
            DoesNotExist: There is no such row.
            TypeError: Not exactly one field is given.
            ImproperlyConfigured: The field is not one of ``lookups``, or its column holds different
                texts equal.
            SynchronousOnlyOperation: An event loop runs in this thread; use ``aget``.
        """
        if _get_running_loop() is not None:
            _refuse_in_event_loop()
        field, value = self._field_and_value(lookup)
        place = self._place
        if place is None:
            return self._or_raise(self._queries.instance(field, value), lookup)
        return self._or_raise(place.cache.client.run(self._get(field, value, place, _blocking)), lookup)

    async def aget(self, **lookup: Any) -> M:
        """Return the row with this primary key or lookup value; raises as ``get``."""
        field, value = self._field_and_value(lookup)
        place = await self._aplace()
        if place is None:
            return self._or_raise(await sync_to_async(self._queries.instance)(field, value), lookup)
        operation = self._get(field, value, place, sync_to_async)
        return self._or_raise(await place.cache.client.arun(operation), lookup)

    def in_bulk(self, keys: Iterable[Any]) -> dict[Any, M]:
        """Return the rows with these primary keys, by primary key; one query loads those that miss."""
        if _get_running_loop() is not None:
            _refuse_in_event_loop()
        place = self._place
        if place is None:
            return self._stored_rows(list(keys))
        return place.cache.client.run(self._in_bulk(list(keys), place, _blocking))

    async def ain_bulk(self, keys: Iterable[Any]) -> dict[Any, M]:
        """Return the rows with these primary keys, as ``in_bulk``."""
        place = await self._aplace()
        if place is None:
            return await sync_to_async(self._stored_rows)(list(keys))
        return await place.cache.client.arun(self._in_bulk(list(keys), place, sync_to_async))

    def _get(
        self, field: models.Field[Any, Any], value: Any, place: _Place, adapt: Adapt
    ) -> protocol.Operation[M | None]:
        """Return the row that has a value in a field; None: there is none.

        A cached lookup may name a row that has another value now, or that does not exist any more,
        and the row may be renamed between the two reads:

            1. a reader loads the lookup: it names row 1;
            2. a writer renames row 1, and commits;
            3. the reader loads row 1, under its new name.

        So the row is compared with what was asked for. If it differs, the keys are deleted and read
        again, a few times; then one query by the value itself decides.
        """
        key, pk_field = self._key(field, value, place), self._keys.pk
        for _ in range(ATTEMPTS):
            pk, row_key = value, key
            if field is not pk_field and key is not None:
                pk = yield from self._load(key, partial(self._queries.pk, field, value), place, adapt)
                if _is_absent(pk):
                    return None
                row_key = self._key(pk_field, pk, place)
            if key is None or row_key is None:
                break
            row = yield from self._row(pk, row_key, place, adapt)
            if row is None and field is pk_field:
                return None
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

    def _row(
        self, pk: Any, key: bytes, place: _Place, adapt: Adapt
    ) -> protocol.Operation[Sequence[Any] | None]:
        """Return the columns of the row with a primary key, cached under this key; None: there is none."""
        loader = partial(self._queries.row, pk)
        value = yield from self._load(key, loader, place, adapt)
        if _is_absent(value):
            return None
        row = self._shape.row(value)
        if row is None:  # a process whose model has another shape filled it
            yield from protocol.delete(place.cache.client.context, key)
            value = yield from self._load(key, loader, place, adapt)
            row = None if _is_absent(value) else self._shape.row(value)
        return row

    def _in_bulk(self, pks: list[Any], place: _Place, adapt: Adapt) -> protocol.Operation[dict[Any, M]]:
        keys = {self._keys.python_value(pk): self._key(self._keys.pk, pk, place) for pk in pks}
        cacheable = {pk: key for pk, key in keys.items() if key is not None}
        rows = yield from self._load_many(cacheable, place, adapt)
        others = {pk: cacheable[pk] for pk, row in rows.items() if row is None}
        if others:  # a process whose model has another shape filled them
            yield from protocol.delete_many(place.cache.client.context, list(others.values()))
            rows |= yield from self._load_many(others, place, adapt)
        if len(cacheable) < len(keys):
            keyless = [pk for pk, key in keys.items() if key is None]
            values = yield protocol.Load(adapt(partial(self._queries.rows, keyless)))
            rows |= self._rows_of(values)
        return self._instances(keys, rows, place.using)

    def _instances(
        self, pks: Iterable[Any], rows: Mapping[Any, Sequence[Any] | None], using: str
    ) -> dict[Any, M]:
        return {pk: self._shape.instance(row, using) for pk in pks if (row := rows.get(pk)) is not None}

    def _load_many(
        self, keys: Mapping[Any, bytes], place: _Place, adapt: Adapt
    ) -> protocol.Operation[dict[Any, Sequence[Any] | None]]:
        """Read many rows by the same rules as ``_load``; a value that is not the row's is None."""
        changed = yield from self._changed_keys(keys.values(), place, adapt)
        cacheable = {pk: key for pk, key in keys.items() if key not in changed}
        loader = adapt(row_guard(self._queries.rows, place.using, list(cacheable.values())))
        values = yield from protocol.get_or_load_many(
            self._context(place.cache), cacheable, loader, self._fill_options(place.cache)
        )
        if len(cacheable) < len(keys):
            uncached = [pk for pk, key in keys.items() if key in changed]
            values |= yield protocol.Load(adapt(partial(self._queries.rows, uncached)))
        return self._rows_of(values)

    def _rows_of(self, values: Mapping[Any, Any]) -> dict[Any, Sequence[Any] | None]:
        """Return the columns of loaded or cached rows; None if they have another shape or primary key."""
        rows = {pk: self._shape.row(value) for pk, value in values.items() if value is not None}
        return {
            pk: row if row and self._keys.are_equal(self._keys.pk, self._shape.pk(row), pk) else None
            for pk, row in rows.items()
        }

    def _load(
        self, key: bytes, loader: Callable[[], Any], place: _Place, adapt: Adapt
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
        self, keys: Collection[bytes], place: _Place, adapt: Adapt
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
        return context.for_strict() if self.is_strict else context

    def _fill_options(self, cache: RingCache) -> protocol.FillOptions:
        fill_options = cache.fill_options(self.timeout, self.stale_for)
        return (
            fill_options
            if self.missing_timeout is None
            else fill_options.with_missing_timeout(self.missing_timeout)
        )

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
        place, client = _Place(using, scope_of(using), cache), cache.client
        row_keys = {pk: key for pk in keys if (key := self._key(self._keys.pk, pk, place)) is not None}
        values = client.run(protocol.get_many(client.context.for_strict(), row_keys))
        return {pk: self._row_or_none(value) for pk, value in values.items()}

    def differing(self, keys: Iterable[Any]) -> list[Any]:
        """Return the primary keys of the cached rows that differ from those in the database.

        The cache is read first. If a row is written in between, the database has a newer row than
        the cache; by the next comparison the old one is no longer cached.
        """
        cached = self.cached_rows(keys)
        stored = self._queries.rows(list(cached))
        return [pk for pk, row in cached.items() if row != self._row_or_none(stored.get(pk))]

    def _row_or_none(self, value: Any) -> Sequence[Any] | None:
        return None if value is None else self._shape.row(value)

    # Without a ring cache

    def _stored_rows(self, pks: list[Any]) -> dict[Any, M]:
        """Return rows as the database has them, by primary key, in the order of the keys."""
        names = list(map(self._keys.python_value, pks))
        rows = self._rows_of(self._queries.rows(names))
        return self._instances(names, rows, self._using)

    # Keys

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that keys are made of, by attribute name."""
        return self._keys.columns

    @property
    def lookup_fields(self) -> list[models.Field[Any, Any]]:
        """The fields by which rows are looked up, beside the primary key."""
        return [field for name, field in self._keys.fields.items() if name in self.lookups]

    def keys_of(self, rows: Sequence[Mapping[str, Any]], using: str) -> list[bytes]:
        """Return the keys of rows: of their primary keys, and of those lookup values that are known."""
        return self.cache.many_key_bytes(self._keys.of_rows(rows, scopes_of_write(using)))

    def prefixes(self, using: str) -> list[tuple[str, str]]:
        """Return what the keys of all rows in a database begin with."""
        return self._keys.prefixes(databases_of_write(using))

    def key_of(self, **lookup: Any) -> str:
        """Return the cache key of a row's primary key or lookup value, in the current namespace."""
        field, value = self._field_and_value(lookup)
        key = self._keys.of(field, value, scope_of(self._using))
        if key is None:
            message = f"{self.model.__name__} with {field.name}={value!r} is not cached"
            raise ValueError(message)
        return key

    def _key(self, field: models.Field[Any, Any], value: Any, place: _Place) -> bytes | None:
        key = self._keys.of(field, value, place.scope)
        return None if key is None else place.cache.key_bytes(key)

    @property
    def _place(self) -> _Place | None:
        """Where rows are read; None if the alias has no ring cache."""
        cache = find_ring_cache(self.alias)
        if cache is None:
            return None
        using = self._using
        return _Place(using, scope_of(using), cache)

    async def _aplace(self) -> _Place | None:
        """Return the place; the namespace is asked for in the thread in which queries run."""
        if namespace_function() is None:
            return self._place
        return await sync_to_async(lambda: self._place)()

    @cached_property
    def _keys(self) -> RowKeys:
        return RowKeys(self.model, self.lookups, self.base_manager)

    @cached_property
    def _shape(self) -> RowShape[M]:
        return RowShape(self.model)

    @cached_property
    def _queries(self) -> RowQueries[M]:
        return RowQueries(self._shape, self.base_manager, caches_absence=self.caches_absence)

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

    def _field_and_value(self, lookup: dict[str, Any]) -> tuple[models.Field[Any, Any], Any]:
        if len(lookup) != 1:
            message = f"get() takes one field, such as pk=1; got {', '.join(sorted(lookup)) or 'none'}"
            raise TypeError(message)
        [(name, value)] = lookup.items()
        field = self._keys.fields.get(name)
        if field is None:
            message = (
                f"{self.model.__name__} rows are not cached by {name!r}; add it to lookups=[…], "
                f"which has {', '.join(self.lookups) or 'none'}"
            )
            raise ImproperlyConfigured(message)
        return field, value

    def _or_raise(self, row: M | None, lookup: dict[str, Any]) -> M:
        if row is None:
            [(name, value)] = lookup.items()
            message = f"{self.model.__name__} with {name}={value!r} does not exist."
            raise self.model.DoesNotExist(message)  # type: ignore[attr-defined]  # Django makes it for every model
        return row


def _copy_inherited(*, sender: type[models.Model], **_: Any) -> None:
    """Give a model its own copy of each CachedManager that it inherits."""
    inherited = {
        name: manager
        for base in reversed(sender.__mro__[1:])
        for name, manager in vars(base).items()
        if isinstance(manager, CachedManager)
    }
    for name, manager in inherited.items():
        if inspect.getattr_static(sender, name) is manager:  # else the model defines the attribute itself
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


def _is_absent(value: Any) -> bool:
    """Return whether a loaded or cached value says that the row does not exist."""
    return value is protocol.MISSING or value is None


def _blocking(loader: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loader unchanged: the blocking driver calls it as it is."""
    return loader

"""Reads of a model through the ring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models, router

from cachebackend import protocol
from cachebackend.backend import RingCache, ring_cache
from cachebackend.invalidation import watch
from cachebackend.invalidation.transactions import is_in_transaction, is_pending
from cachebackend.managers.fill_rules import may_fill
from cachebackend.managers.keys import RowKeys
from cachebackend.managers.rows import RowShape

__all__ = ["CachedManager"]

M = TypeVar("M", bound=models.Model)
#: What turns a blocking loader into one that the driver at hand can run.
Adapt = Callable[[Callable[..., Any]], Callable[..., Any]]


class CachedManager(Generic[M]):
    """Reads single rows of its model through the ring: ``Article.cached.get(slug="x")``.

    Args:
        lookups: Unique fields, beside the primary key, that rows are asked for by.
        timeout: Seconds that a row is kept; the cache alias' own by default.
        alias: The cache alias, a ring cache.
        consistency: ``"commit"``: a row is invalidated after its commit, and a crash in
            between bounds staleness by the relay's lag. ``"strict"``: its keys are in
            quarantine from before the write, and nobody reads a row that is older than an
            acknowledged commit; a write whose node cannot be reached fails.
        write: ``"invalidate"``, or ``"through"``: after the commit the row is loaded anew.
        missing_timeout: Seconds that the absence of a row is kept; None: not at all.
        stale_for: Seconds past its timeout in which a row may be served while one caller
            loads it again; the alias' own by default. Not for strict rows.
        triggers: Whether triggers on the model's table catch what Django does not see: raw
            SQL, other programs, cascades of the database. Needs Postgres and django-pgtrigger,
            and ``makemigrations``.

    A row is loaded from the database that its model is written to, after the lease is
    held, so a value from before a write never stands after it.
    """

    model: type[M]

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
    ) -> None:
        self.has_triggers = triggers
        self.lookups = tuple(lookups)
        self.timeout = timeout
        self.alias = alias
        self.is_strict = _chosen("consistency", consistency, ("commit", "strict")) == "strict"
        self.writes_through = _chosen("write", write, ("invalidate", "through")) == "through"
        self.missing_timeout = missing_timeout
        self.stale_for = 0.0 if self.is_strict else stale_for

    def contribute_to_class(self, model: type[M], name: str) -> None:
        """Become the attribute of a model, and be told of its rows' changes. Called by Django."""
        if model._meta.abstract:
            message = f"{model.__name__}.{name}: a CachedManager belongs on a model that has rows"
            raise ImproperlyConfigured(message)
        self.model = model
        setattr(model, name, self)
        if self.has_triggers:
            _add_triggers(model, name)
        watch(model, self)

    # Reading

    def get(self, **lookup: Any) -> M:
        """Return the row with this primary key or lookup value.

        Raises:
            DoesNotExist: There is none.
            TypeError: Not exactly one field is asked for.
            ImproperlyConfigured: The field is not among ``lookups``.
        """
        field, value = self._field_and_value(lookup)
        return self._or_raise(self.cache.client.run(self._get(field, value, _as_it_is)), lookup)

    async def aget(self, **lookup: Any) -> M:
        """Return the row with this primary key or lookup value; raises as ``get`` does."""
        field, value = self._field_and_value(lookup)
        return self._or_raise(await self.cache.client.arun(self._get(field, value, sync_to_async)), lookup)

    def in_bulk(self, keys: Iterable[Any]) -> dict[Any, M]:
        """Return the rows with these primary keys, by key; one query for all that are not cached."""
        return self.cache.client.run(self._in_bulk(list(keys), _as_it_is))

    async def ain_bulk(self, keys: Iterable[Any]) -> dict[Any, M]:
        """Return the rows with these primary keys, by key; one query for all that are not cached."""
        return await self.cache.client.arun(self._in_bulk(list(keys), sync_to_async))

    def _get(self, field: models.Field[Any, Any], value: Any, adapt: Adapt) -> protocol.Operation[M | None]:
        if field is self._keys.pk:
            return (yield from self._row(value, adapt))
        at = self._shape.names.index(field.attname)
        key = self._key(field, value)
        pk = yield from self._load(key, adapt(lambda: self._find_pk(field, value)))
        if _is_absent(pk):
            return None
        row = yield from self._row(pk, adapt)
        if row is not None and self._keys.text(field, row.__dict__[self._shape.names[at]]) == self._keys.text(
            field, value
        ):
            return row
        # The lookup entry led to a row that has another value by now, or is gone.
        yield from protocol.delete(self.cache.client.context, key)
        pk = yield from self._load(key, adapt(lambda: self._find_pk(field, value)))
        return None if _is_absent(pk) else (yield from self._row(pk, adapt))

    def _row(self, pk: Any, adapt: Adapt) -> protocol.Operation[M | None]:
        key = self._key(self._keys.pk, pk)
        value = yield from self._load(key, adapt(lambda: self._find_row(pk)))
        if _is_absent(value):
            return None
        row = self._shape.row(value)
        if row is None:  # written by a process whose model has another shape
            yield from protocol.delete(self.cache.client.context, key)
            value = yield from self._load(key, adapt(lambda: self._find_row(pk)))
            row = None if _is_absent(value) else self._shape.row(value)
        return None if row is None else self._shape.instance(row, self._using)

    def _in_bulk(self, asked: list[Any], adapt: Adapt) -> protocol.Operation[dict[Any, M]]:
        using = self._using
        keys = {self._keys.pk.to_python(pk): self._key(self._keys.pk, pk) for pk in asked}
        pending = {pk for pk, key in keys.items() if is_pending(self.alias, key, using)}
        found = yield from self._load_many({pk: key for pk, key in keys.items() if pk not in pending}, adapt)
        rows = {pk: self._shape.row(value) for pk, value in found.items() if value is not None}
        unread = [pk for pk in keys if pk in pending or (pk in rows and rows[pk] is None)]
        if unread:
            values = yield protocol.Load(adapt(lambda: self._find_rows(unread)))
            rows.update({pk: self._shape.row(value) for pk, value in values.items()})
        return {pk: self._shape.instance(row, using) for pk in keys if (row := rows.get(pk)) is not None}

    def _load_many(self, keys: Mapping[Any, bytes], adapt: Adapt) -> protocol.Operation[dict[Any, Any]]:
        """Read many rows through the ring, by the same rules as ``_load``."""
        context, fill_options = self._context, self._fill_options(self.cache)
        if not is_in_transaction(connections[self._using]):
            return (yield from protocol.get_or_load_many(context, keys, adapt(self._find_rows), fill_options))
        found = yield from protocol.get_many(context, keys)
        missing = {pk: key for pk, key in keys.items() if pk not in found}
        if missing and may_fill(self._using):
            loaded = yield from protocol.get_or_load_many(
                context, missing, adapt(self._find_rows), fill_options
            )
        else:
            loaded = (yield protocol.Load(adapt(lambda: self._find_rows(list(missing))))) if missing else {}
        return found | loaded

    def _load(self, key: bytes, loader: Callable[[], Any]) -> protocol.Operation[Any]:
        """Read through the ring; past it, or without filling, where the open transaction asks for that.

        A transaction must not read over what it has written, nor fill from it; and one
        whose snapshot may be older than the lease must not fill.
        """
        context = self._context
        if is_pending(self.alias, key, self._using):
            return (yield protocol.Load(loader))
        if is_in_transaction(connections[self._using]):
            value = yield from protocol.get(context, key, protocol.MISSING)
            if value is not protocol.MISSING:
                return value
            if not may_fill(self._using):
                return (yield protocol.Load(loader))
        return (yield from protocol.get_or_load(context, key, loader, self._fill_options(self.cache)))

    @property
    def _context(self) -> protocol.Context:
        """The alias' context; for strict rows without gutter and copies, where no quarantine is."""
        context = self.cache.client.context
        return context.for_strict() if self.is_strict else context

    def _fill_options(self, cache: RingCache) -> protocol.FillOptions:
        fill_options = cache.fill_options(self.timeout, self.stale_for)
        return (
            fill_options
            if self.missing_timeout is None
            else fill_options.with_missing_timeout(self.missing_timeout)
        )

    # Being told of changes

    @property
    def caches_absence(self) -> bool:
        """Whether a key may hold that there is no row."""
        return self.missing_timeout is not None

    def refill(self, keys: Iterable[Any]) -> None:
        """Load rows anew, under fresh leases, if the manager writes through.

        Each reads what is committed when its lease is held, so of two writers that refill
        neither can leave the older row.
        """
        if self.writes_through and (wanted := list(keys)):
            self.in_bulk(wanted)

    # Auditing

    def cached_rows(self, keys: Iterable[Any]) -> dict[Any, Sequence[Any] | None]:
        """Return what is cached of rows, by primary key: columns, or None for an absence. Fills nothing."""
        wanted = {pk: self._key(self._keys.pk, pk) for pk in keys}
        found = self.cache.client.run(protocol.get_many(self.cache.client.context.for_strict(), wanted))
        return {pk: None if value is None else self._shape.row(value) for pk, value in found.items()}

    def differing(self, keys: Iterable[Any]) -> list[Any]:
        """Return the primary keys of rows that the cache has otherwise than the database.

        The cache is read first: a row that is written in between is then found newer in the
        database, and no longer cached by the time it is looked at again.
        """
        cached = self.cached_rows(keys)
        stored = self._find_rows(list(cached))
        return [pk for pk, row in cached.items() if row != self._stored_row(stored.get(pk))]

    def _stored_row(self, value: Any) -> Sequence[Any] | None:
        return None if value is None else self._shape.row(value)

    # Loading from the database

    @property
    def _rows(self) -> models.QuerySet[M]:
        return self.model._base_manager.using(self._using)

    def _find_pk(self, field: models.Field[Any, Any], value: Any) -> Any:
        found = self._rows.filter(**{field.attname: value}).values_list("pk", flat=True)
        return next(iter(found), protocol.MISSING)

    def _find_row(self, pk: Any) -> Any:
        rows = self._rows.filter(pk=pk).values_list(*self._shape.names)
        return next((self._shape.value(row) for row in rows), protocol.MISSING)

    def _find_rows(self, keys: list[Any]) -> dict[Any, Any]:
        at = self._shape.names.index(self._keys.pk.attname)
        rows = self._rows.filter(pk__in=keys).values_list(*self._shape.names)
        return {row[at]: self._shape.value(row) for row in rows}

    # Keys

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that keys are made of, by attribute name."""
        return self._keys.columns

    def keys_of(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Return the keys of rows: their own, and their lookups' as far as they are known."""
        return self.cache.many_key_bytes(self._keys.of_rows(rows))

    def _key(self, field: models.Field[Any, Any], value: Any) -> bytes:
        return self.cache.key_bytes(self._keys.of(field, value))

    @cached_property
    def _keys(self) -> RowKeys:
        return RowKeys(self.model, self.lookups)

    @cached_property
    def _shape(self) -> RowShape[M]:
        return RowShape(self.model)

    @property
    def _using(self) -> str:
        return router.db_for_write(self.model)

    @property
    def cache(self) -> RingCache:
        """The ring cache that rows are kept in.

        Raises:
            ImproperlyConfigured: The alias is not one.
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


def _chosen(name: str, word: str, words: tuple[str, ...]) -> str:
    if word not in words:
        message = f"CachedManager({name}=…) must be one of {', '.join(words)}, got {word!r}"
        raise ImproperlyConfigured(message)
    return word


def _is_absent(value: Any) -> bool:
    """Return whether there is no row: just found out, or cached as None."""
    return value is protocol.MISSING or value is None


def _as_it_is(loader: Callable[..., Any]) -> Callable[..., Any]:
    return loader

"""``CachedManager``: reads a model through the ring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, TypeVar, cast

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.manager import BaseManager
from django.db.models.signals import class_prepared

from cachebackend.inherited import inherited_attributes
from cachebackend.invalidation import watch, watch_queries, watch_tags
from cachebackend.invalidation.watched import is_historical
from cachebackend.managers.by_key import RowsByKey
from cachebackend.managers.keys import LookupNames
from cachebackend.properties import cached_property
from cachebackend.queries.options import DEFAULT, QueryOptions
from cachebackend.queries.queryset import CachedQuerySet

__all__ = ["CachedManager"]

M = TypeVar("M", bound=models.Model)


class CachedManager(RowsByKey[M], BaseManager.from_queryset(CachedQuerySet)):  # type: ignore[misc]  # made at run time
    """Reads its model through the ring: ``Article.cached.get(slug="x")``, ``Article.cached.filter(…)``.

    It has every method of Django's managers (``CachedQuerySet``), but is not one of the model's managers: it
    is never the default one. If a subclass has a ``get_queryset`` of its own, all methods read by it, and
    ``get`` costs a cached query.

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
        ignore: Fields that change too often, such as a counter of views. A change of such a field alone
            invalidates no result of a query that orders by it, returns it, or filters by it otherwise than
            by an equality that decides about rows, which those of a ``TextField`` or a ``FloatField`` do
            not: with regard to this field, a result may be as old as its ``timeout``. This holds for all
            cached queries that read the table. Rows, and whole rows in results, have the present value.

    On an abstract model each concrete child gets its own manager with these options; so do the
    children and proxies of a model, unless they define the attribute.

    A row is loaded from the database that its model is written to, and after the lease is held.
    So a row from before a write is never filled after the write.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments: the models that inherit the manager get copies."""
        manager: Self = super().__new__(cls)
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
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.name = "cached"  # until the manager is an attribute of a model
        self.base_manager = base_manager
        self.has_triggers = triggers
        self.ignore = tuple(ignore)
        self.lookups = tuple(lookups)
        self.timeout = timeout
        self.cache_alias = alias
        self.is_strict = _choice("consistency", consistency, ("commit", "strict")) == "strict"
        self.writes_through = _choice("write", write, ("invalidate", "through")) == "through"
        self.missing_timeout = missing_timeout
        self.stale_for = 0.0 if self.is_strict else stale_for

    def contribute_to_class(self, model: type[M], name: str) -> None:
        """Become an attribute of the model, and watch its rows. Django calls it."""
        self.model, self.name = model, name
        own = {"_of_model": lambda _: self, "__module__": type(self).__module__}
        self.__class__ = type(type(self).__name__, (type(self),), own)
        setattr(model, name, self)
        if not model._meta.abstract and not is_historical(model):
            if self.has_triggers:
                _add_triggers(model, name)
            watch(model, self)
            watch_tags(model)
            if not self.is_strict:
                watch_queries(model, self.cache_alias)
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

    def get_queryset(self) -> CachedQuerySet[M]:
        """Return a queryset of all rows, or of those that ``base_manager`` does not leave out."""
        manager = self._of_model()
        if manager.base_manager is None and self._db is None and not self._hints:
            return manager._all_rows.all()
        queryset: CachedQuerySet[M] = CachedQuerySet(self.model, using=self._db, hints=self._hints)
        if manager.base_manager is not None:  # it may return other rows each time
            queryset.query = getattr(self.model, manager.base_manager).get_queryset().query.chain()
        queryset.cache_options = manager._query_options
        return queryset

    def _of_model(self) -> CachedManager[M]:
        """Return the manager of the model that this one has its class from.

        Django makes the manager of a relation, such as ``author.poem_set(manager="cached")``, of the class of
        another manager, without arguments. So each manager of a model has a class of its own. That of
        a relation reads some rows of the model, and has no keys.
        """
        return self

    @property
    def reads_every_row(self) -> bool:
        """Whether a row can be read by its key alone.

        A manager of a relation leaves out rows, and so may a subclass that has another ``get_queryset``.
        """
        return self._of_model() is self and type(self).get_queryset is CachedManager.get_queryset

    @cached_property
    def _all_rows(self) -> CachedQuerySet[M]:
        """The queryset that all others are made of; nothing changes it."""
        queryset: CachedQuerySet[M] = CachedQuerySet(self.model)
        return queryset.begin(self._query_options)

    @cached_property
    def _query_options(self) -> QueryOptions:
        return QueryOptions(
            self.cache_alias,
            DEFAULT if self.timeout is DEFAULT_TIMEOUT else cast("float | None", self.timeout),
            self.stale_for,
            rows=self.name,
            is_strict=self.is_strict,
        )


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


def _choice(name: str, choice: str, choices: tuple[str, ...]) -> str:
    if choice not in choices:
        message = f"CachedManager({name}=…) must be one of {', '.join(choices)}, got {choice!r}"
        raise ImproperlyConfigured(message)
    return choice

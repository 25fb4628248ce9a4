"""What is cached of a model: the dependents that have keys for its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from django.db import models

from cachebackend.backend import find_ring_cache

__all__ = [
    "Dependent",
    "KeysByAlias",
    "Row",
    "add_keys",
    "all_dependents",
    "dependents_by_model",
    "dependents_of",
    "is_historical",
    "queried_models",
    "register",
    "register_queries",
    "shares_rows",
    "watched_models",
]

#: The columns of a row, by attribute name.
Row: TypeAlias = Mapping[str, Any]
#: Keys as the nodes store them, by cache alias.
KeysByAlias: TypeAlias = dict[str, set[bytes]]


class Dependent(Protocol):
    """Something that caches rows of a model."""

    @property
    def cache_alias(self) -> str:
        """The cache alias of the keys."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The attribute names of the columns that the keys are made of."""
        ...

    @property
    def is_strict(self) -> bool:
        """Whether the keys are quarantined while a row is written."""
        ...

    @property
    def caches_absence(self) -> bool:
        """Whether a key may record that a row does not exist."""
        ...

    @property
    def writes_through(self) -> bool:
        """Whether ``refill`` loads changed rows again."""
        ...

    def keys_of(self, rows: Sequence[Row], using: str) -> list[bytes]:
        """Return the keys that are wrong when rows change.

        Args:
            rows: Their columns by attribute name; the primary key also under ``pk``. Columns of
                ``fields`` that are unknown, or that did not change, are left out. An empty row
                has only the keys that depend on all rows.
            using: The alias of the database whose rows changed.
        """
        ...

    def prefixes(self, using: str) -> list[tuple[str, str]]:
        """Return what the keys of all rows in a database begin with.

        Each is two texts; a key may have a namespace between them.
        """
        ...

    def refill(self, keys: Iterable[Any]) -> None:
        """Load rows again, by primary key, if the dependent writes through."""
        ...


_dependents: dict[type[models.Model], list[Dependent]] = {}
#: The cache aliases that hold results of queries over a model's tables.
_queried: dict[type[models.Model], set[str]] = {}


def is_historical(model: type[models.Model]) -> bool:
    """Return whether a model belongs to the state of a migration.

    Managers with ``use_in_migrations`` are attributes of such models too, but nothing is cached of
    them. Django gives all of them this module, and also the copies with which it changes a table on
    SQLite.
    """
    return model.__module__ == "__fake__"


def register(model: type[models.Model], dependent: Dependent) -> None:
    """Register a dependent that caches the model's rows; models of migration states are left out."""
    if is_historical(model):
        return
    _dependents.setdefault(model, []).append(dependent)


def register_queries(model: type[models.Model], alias: str) -> None:
    """Record that results of queries over a model's tables are cached in a cache alias."""
    if not is_historical(model):
        _queried.setdefault(model, set()).add(alias)


def queried_models() -> dict[type[models.Model], set[str]]:
    """Return the models over whose tables results are cached, with the aliases that are ring caches."""
    return {
        model: aliases
        for model, all_aliases in _queried.items()
        if (aliases := {alias for alias in all_aliases if find_ring_cache(alias) is not None})
    }


def all_dependents() -> list[tuple[type[models.Model], Dependent]]:
    """Return every dependent with the model that it is registered for, with and without a ring cache."""
    return [(model, dependent) for model, dependents in _dependents.items() for dependent in dependents]


def dependents_by_model() -> dict[type[models.Model], list[Dependent]]:
    """Return the dependents that cache something, by the model that they are registered for.

    Dependents whose alias has no ring cache are left out.
    """
    by_model: dict[type[models.Model], list[Dependent]] = {}
    for model, dependent in all_dependents():
        if find_ring_cache(dependent.cache_alias) is not None:
            by_model.setdefault(model, []).append(dependent)
    return by_model


def dependents_of(model: type[models.Model]) -> list[tuple[type[models.Model], Dependent]]:
    """Return each dependent that caches rows of the model, with the model that it is registered for.

    The rows of a proxy are those of its concrete model. In multi-table inheritance a child's row
    is also a row of its parents, and a parent's row is a part of a row of its children.
    """
    return [
        (watched, dependent)
        for watched, dependents in dependents_by_model().items()
        if shares_rows(watched, model)
        for dependent in dependents
    ]


def shares_rows(first: type[models.Model], second: type[models.Model]) -> bool:
    """Return whether a row of one model is, or is a part of, a row of the other."""
    first, second = first._meta.concrete_model or first, second._meta.concrete_model or second
    return issubclass(first, second) or issubclass(second, first)


def watched_models() -> list[type[models.Model]]:
    """Return the models that have a dependent which caches something."""
    return list(dependents_by_model())


def add_keys(keys: KeysByAlias, more: Mapping[str, Iterable[bytes]]) -> None:
    """Add keys, alias by alias; an alias without keys gets no entry."""
    for alias, group in more.items():
        if alias in keys:
            keys[alias].update(group)
        elif new := set(group):
            keys[alias] = new

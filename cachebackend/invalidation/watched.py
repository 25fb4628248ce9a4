"""What is cached of a model: who must be asked for the keys of a row that changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from django.db import models

__all__ = ["Dependent", "dependents_of", "register", "shares_rows", "watched_models"]


class Dependent(Protocol):
    """Something that caches rows of a model."""

    @property
    def alias(self) -> str:
        """The cache alias that the keys are in."""
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
        """Whether a key may hold that there is no row."""
        ...

    @property
    def writes_through(self) -> bool:
        """Whether ``refill`` loads rows anew when they have changed."""
        ...

    def keys_of(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Return the keys that are wrong when rows change.

        Args:
            rows: Their columns by attribute name, the primary key's also as ``pk``; those
                of ``fields`` that are not known, or that did not change, are left out.
        """
        ...

    def refill(self, keys: Iterable[Any]) -> None:
        """Load rows anew, by primary key, if the dependent is written through."""
        ...


_dependents: dict[type[models.Model], list[Dependent]] = {}


def register(model: type[models.Model], dependent: Dependent) -> None:
    """Note that something caches the model's rows."""
    _dependents.setdefault(model, []).append(dependent)


def dependents_of(model: type[models.Model]) -> list[tuple[type[models.Model], Dependent]]:
    """Return what caches rows that a row of the model is, or is a part of.

    A proxy's rows are its model's. A child's row (multi-table inheritance) is its parents'
    too, and a parent's row is a part of its children's.
    """
    return [
        (watched, dependent)
        for watched, dependents in _dependents.items()
        if shares_rows(watched, model)
        for dependent in dependents
    ]


def shares_rows(one: type[models.Model], other: type[models.Model]) -> bool:
    """Return whether a row of the one is, or is a part of, a row of the other."""
    one, other = one._meta.concrete_model or one, other._meta.concrete_model or other
    return issubclass(one, other) or issubclass(other, one)


def watched_models() -> list[type[models.Model]]:
    """Return the models of which something is cached."""
    return list(_dependents)

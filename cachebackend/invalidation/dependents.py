"""What is cached of a model: who must be asked for the keys of a row that changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from django.db import models

__all__ = ["Dependent", "dependents_of", "register"]


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

    def keys_of(self, row: Mapping[str, Any]) -> list[bytes]:
        """Return the keys that are wrong when a row changes.

        Args:
            row: Its columns by attribute name; those of ``fields`` that are not known are
                left out.
        """
        ...


_dependents: dict[type[models.Model], list[Dependent]] = {}


def register(model: type[models.Model], dependent: Dependent) -> None:
    """Note that something caches the model's rows, and listen to their signals."""
    from cachebackend.invalidation.signals import listen_to

    _dependents.setdefault(model, []).append(dependent)
    listen_to(model)


def dependents_of(model: type[models.Model]) -> list[Dependent]:
    """Return what caches the model's rows."""
    return _dependents.get(model, [])

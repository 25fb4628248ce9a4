"""The kinds of steps, and the models that each fits.

A kind is a function that writes; ``tests.differential.writes`` has all of them. A step that finds
nothing to write does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db import models

from cachebackend.backend.canonical import is_comparable
from tests.differential.targets import Step, Target, World
from tests.zoo.models import FAMILIES, Arrival, Bill, Moment

__all__ = [
    "KINDS",
    "can_bulk",
    "fits",
    "has_foreign_key",
    "has_many",
    "has_nullable_foreign_key",
    "has_own_key",
    "has_text",
    "has_triggers",
    "is_child",
    "is_composite",
    "is_tag",
    "kind",
    "may_be_unreadable",
]

Kind = Callable[[Target], object]
#: Every kind of step, by name.
KINDS: dict[str, Kind] = {}
_FITS: dict[str, Callable[[Target], object]] = {}


def kind(name: str, fits: Callable[[Target], object] = lambda _: True) -> Callable[[Kind], Kind]:
    """Register a kind of step, and the models that it fits."""

    def register(function: Kind) -> Kind:
        KINDS[name], _FITS[name] = function, fits
        return function

    return register


def fits(name: str, model: type[models.Model]) -> bool:
    """Return whether a kind of step can write a model."""
    return bool(_FITS[name](Target(Step(name, model.__name__), World())))


def is_composite(target: Target) -> bool:
    return isinstance(target.model._meta.pk, models.CompositePrimaryKey)


def is_child(target: Target) -> bool:
    return bool(target.model._meta.parents)


def has_own_key(target: Target) -> bool:
    """Return whether a model is a child whose primary key is not that of its parent."""
    return is_child(target) and not target.model._meta.pk.remote_field


def can_bulk(target: Target) -> bool:
    return not target.model._meta.concrete_model._meta.parents


def has_text(target: Target) -> bool:
    return target.text is not None


def has_foreign_key(target: Target) -> bool:
    return bool(target.foreign_keys)


def has_nullable_foreign_key(target: Target) -> bool:
    return bool(target.foreign_keys) and all(each.null for each in target.foreign_keys)


def has_many(target: Target) -> bool:
    return bool(target.many)


def has_triggers(target: Target) -> bool:
    return target.model in {*FAMILIES["triggers"], Moment, Arrival, Bill}


def may_be_unreadable(target: Target) -> bool:
    """Return whether columns of the model can hold values that Python cannot read."""
    return target.model is Moment


def is_tag(target: Target) -> bool:
    """Return whether a row of the model may be a tag."""
    return is_comparable(target.model._meta.pk)

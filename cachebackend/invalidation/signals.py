"""Notices changed rows by Django's signals."""

from __future__ import annotations

from typing import Any

from django.db import connections, models
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save, pre_delete, pre_save

from cachebackend.invalidation.transactions import (
    finish_write,
    invalidate_rows,
    is_in_transaction,
    prepare_write,
)
from cachebackend.invalidation.watched import (
    Dependent,
    dependents_of,
    register,
    shares_rows,
    watched_models,
)

__all__ = ["row_of", "watch"]

#: The attribute of an instance that holds its prepared write, while it is saved in autocommit.
_ATTRIBUTE = "_ringcache_prepared"


def watch(model: type[models.Model], dependent: Dependent) -> None:
    """Invalidate what a dependent caches of a model's rows whenever one changes.

    Connects to the signals of the model, its parents, and models that are derived from it later.
    Other models get no receivers, so Django still deletes their rows without loading them.
    """
    register(model, dependent)
    for base in model.__mro__:
        if issubclass(base, models.Model) and base is not models.Model and not base._meta.abstract:
            _connect(base)
    m2m_changed.connect(_after_relation_change, dispatch_uid="ringcache")
    class_prepared.connect(_connect_derived, dispatch_uid="ringcache")


def _connect_derived(*, sender: type[models.Model], **_: Any) -> None:
    """Connect to a proxy or child of a watched model: it sends its own signals."""
    if any(shares_rows(watched, sender) for watched in watched_models()):
        _connect(sender)


def _connect(model: type[models.Model]) -> None:
    uid = f"ringcache:{model._meta.label}"
    for signal, receiver in (
        (pre_save, _before_save),
        (post_save, _after_save),
        (pre_delete, _before_delete),
        (post_delete, _after_delete),
    ):
        signal.connect(receiver, sender=model, dispatch_uid=uid)


def row_of(instance: models.Model) -> dict[str, Any]:
    """Return the columns of an instance that keys are made of; deferred columns are left out."""
    names = {"pk"}
    for watched, dependent in dependents_of(type(instance)):
        names.update((watched._meta.pk.attname, *dependent.fields))
    row = {name: instance.__dict__[name] for name in names if name in instance.__dict__}
    return row | {"pk": instance.pk}


def _before_save(*, instance: models.Model, using: str, raw: bool = False, **_: Any) -> None:
    caches_absence = any(dependent.caches_absence for _, dependent in dependents_of(type(instance)))
    if instance._state.adding and instance.pk is None and not caches_absence:
        return  # nothing can be cached of a row that has no primary key yet
    prepared = prepare_write(type(instance), [row_of(instance)], using)
    if prepared is not None:
        instance.__dict__[_ATTRIBUTE] = prepared


def _after_save(*, instance: models.Model, using: str, **_: Any) -> None:
    prepared = instance.__dict__.pop(_ATTRIBUTE, None)
    if prepared is not None and not is_in_transaction(connections[using]):
        finish_write(prepared, type(instance), [row_of(instance)], using)
    else:
        invalidate_rows(type(instance), [row_of(instance)], using)


def _before_delete(*, instance: models.Model, using: str, **_: Any) -> None:
    prepare_write(type(instance), [row_of(instance)], using)


def _after_delete(*, instance: models.Model, using: str, **_: Any) -> None:
    invalidate_rows(type(instance), [row_of(instance)], using)


def _after_relation_change(
    *, instance: Any, model: type[models.Model], action: str, pk_set: set[Any] | None, using: str, **_: Any
) -> None:
    """Invalidate the rows at both ends of a many-to-many relation that changed."""
    if not action.startswith(("post_", "pre_clear")):
        return
    if isinstance(instance, models.Model):
        invalidate_rows(type(instance), [row_of(instance)], using)
    if pk_set:
        invalidate_rows(model, [{"pk": pk} for pk in pk_set], using)

"""Django's signals, as changed rows."""

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

#: Where an instance carries what was prepared for its save in autocommit.
_ATTRIBUTE = "_ringcache_prepared"


def watch(model: type[models.Model], dependent: Dependent) -> None:
    """Invalidate what a dependent caches of a model's rows, whenever one changes.

    Listens to the model, its parents, and what is derived from it later; to no other model,
    so others keep Django's fast deletes.
    """
    register(model, dependent)
    for kin in model.__mro__:
        if issubclass(kin, models.Model) and kin is not models.Model and not kin._meta.abstract:
            _listen_to(kin)
    m2m_changed.connect(_related, dispatch_uid="ringcache")
    class_prepared.connect(_listen_to_derived, dispatch_uid="ringcache")


def _listen_to_derived(*, sender: type[models.Model], **_: Any) -> None:
    """A proxy or child of a watched model sends signals of its own."""
    if any(shares_rows(watched, sender) for watched in watched_models()):
        _listen_to(sender)


def _listen_to(model: type[models.Model]) -> None:
    uid = f"ringcache:{model._meta.label}"
    for signal, receiver in (
        (pre_save, _before_save),
        (post_save, _after_save),
        (pre_delete, _before_delete),
        (post_delete, _after_delete),
    ):
        signal.connect(receiver, sender=model, dispatch_uid=uid)


def row_of(instance: models.Model) -> dict[str, Any]:
    """Return the columns that the keys of a row are made of, as far as the instance has them."""
    names = {"pk"}
    for watched, dependent in dependents_of(type(instance)):
        names.update((watched._meta.pk.attname, *dependent.fields))
    row = {name: instance.__dict__[name] for name in names if name in instance.__dict__}
    return row | {"pk": instance.pk}


def _before_save(*, instance: models.Model, using: str, raw: bool = False, **_: Any) -> None:
    absent = any(dependent.caches_absence for _, dependent in dependents_of(type(instance)))
    if instance._state.adding and instance.pk is None and not absent:
        return  # nothing can be cached of a row that has no key yet
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


def _related(
    *, instance: Any, model: type[models.Model], action: str, pk_set: set[Any] | None, using: str, **_: Any
) -> None:
    """Both ends of a relation that changed are changed rows."""
    if not action.startswith(("post_", "pre_clear")):
        return
    if isinstance(instance, models.Model):
        invalidate_rows(type(instance), [row_of(instance)], using)
    if pk_set:
        invalidate_rows(model, [{"pk": pk} for pk in pk_set], using)

"""Django's signals, as changed rows."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.signals import m2m_changed, post_delete, post_save

from cachebackend.invalidation.dependents import dependents_of
from cachebackend.invalidation.transactions import invalidate_rows

__all__ = ["listen_to", "row_of"]


def listen_to(model: type[models.Model]) -> None:
    """Invalidate what is cached of a row of the model when it is saved, deleted or related anew.

    Only the models that something depends on are listened to, so others keep Django's
    fast deletes.
    """
    post_save.connect(_changed, sender=model, dispatch_uid=f"ringcache:{model._meta.label}")
    post_delete.connect(_changed, sender=model, dispatch_uid=f"ringcache:{model._meta.label}")
    m2m_changed.connect(_related, dispatch_uid="ringcache")


def row_of(instance: models.Model) -> dict[str, Any]:
    """Return the columns that the keys of a row are made of, as far as the instance has them."""
    names = {instance._meta.pk.attname} if instance._meta.pk else set()
    names.update(name for dependent in dependents_of(type(instance)) for name in dependent.fields)
    return {name: instance.__dict__[name] for name in names if name in instance.__dict__}


def _changed(*, instance: models.Model, using: str, **_: Any) -> None:
    invalidate_rows(type(instance), [row_of(instance)], using)


def _related(*, instance: Any, action: str, using: str, **_: Any) -> None:
    if action.startswith("post_") and isinstance(instance, models.Model):
        invalidate_rows(type(instance), [row_of(instance)], using)

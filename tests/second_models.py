"""Models that only one test knows, in no app."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.invalidation import tables, watched
from cachebackend.writebehind import queue

__all__ = ["forget_isolated_models", "second_model"]


def second_model(first: type[models.Model], table: str = "", **attributes: Any) -> Any:
    """Return an unmanaged model of the table of another model, which is in no app.

    Args:
        first: The other model.
        table: The name of the table, if it is written in another way.
        attributes: Its fields and managers; Django adds the primary key.
    """
    label = first._meta.app_label
    options = {"app_label": label, "managed": False, "db_table": table or first._meta.db_table}
    members = {"__module__": first.__module__, "Meta": type("Meta", (), options), **attributes}
    with isolate_apps(apps.get_app_config(label).name):
        model = type("Second", (models.Model,), members)
    tables.forget_tables()
    return model


def forget_isolated_models() -> None:
    """Let nothing watch models that are in no app, as those that ``isolate_apps`` makes."""
    registries: tuple[dict[type[models.Model], Any], ...] = (watched._dependents, watched._queried)
    isolated = {model for registry in registries for model in registry if model._meta.apps is not apps}
    for registry in registries:
        for model in isolated:
            registry.pop(model, None)
    if isolated:
        tables.forget_tables()
    queue._models[:] = [model for model in queue._models if model._meta.apps is apps]

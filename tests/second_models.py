"""Second models of a table that exists, which only one test knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.apps import apps
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.invalidation import tables, watched

__all__ = ["second_model", "watched_in_block"]


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


@contextmanager
def watched_in_block() -> Iterator[None]:
    """Let the models that a block makes be watched until its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "_dependents", {each: [*own] for each, own in watched._dependents.items()})
        patch.setattr(watched, "_queried", {each: {*own} for each, own in watched._queried.items()})
        yield
    tables.forget_tables()

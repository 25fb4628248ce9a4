"""The managers that ``RINGCACHE["models"]`` adds to models, so that other people's apps need no line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from django.apps import apps
from django.db import models

from cachebackend.conf import project_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation import watch_queries, watch_tags
from cachebackend.managers.cached import CachedManager

__all__ = ["NAME", "ConfiguredManager", "add_configured_managers", "configured_models", "unknown_labels"]

#: The name of the managers on their models.
NAME = "cached"
M = TypeVar("M", bound=models.Model)


class ConfiguredManager(CachedManager[M]):
    """A manager that ``RINGCACHE["models"]`` adds to a model; children of the model get one, too."""


def add_configured_managers() -> None:
    """Give each model of ``RINGCACHE["models"]`` a manager ``cached``, unless it has such an attribute.

    Otherwise the model is watched alone. Labels of no model are left out: a check reports them.
    """
    # Children first: a model passes its manager on to those that have none
    found = sorted(configured_models().items(), key=lambda item: len(item[0].__mro__), reverse=True)
    for model, options in found:
        if inspect.getattr_static(model, NAME, None) is None:
            ConfiguredManager[Any](**_arguments(options)).contribute_to_class(model, NAME)
        else:
            watch_tags(model)
            watch_queries(model, options.get("alias", "default"))


def configured_models() -> dict[type[models.Model], Mapping[str, Any]]:
    """Return the models of ``RINGCACHE["models"]`` with their options."""
    found: dict[type[models.Model], Mapping[str, Any]] = {}
    labels = project_options().models
    for label in sorted(labels, key=lambda label: not label.endswith(".*")):  # models after those of apps
        found |= dict.fromkeys(_models_of(label), labels[label])
    return found


def unknown_labels() -> list[str]:
    """Return the labels of ``RINGCACHE["models"]`` that no installed model has."""
    return [label for label in project_options().models if not any(_models_of(label))]


def _models_of(label: str) -> Iterator[type[models.Model]]:
    """Yield the models with a label. All models of an app are those whose tables Django writes."""
    app, _, name = label.rpartition(".")
    try:
        if name != "*":
            yield apps.get_model(app, name)
            return
        for model in apps.get_app_config(app).get_models():
            if model._meta.managed and not model._meta.swapped:
                yield model
    except LookupError as error:
        raise_interrupt(error)
        return


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    lookups = [name if isinstance(name, str) else tuple(name) for name in options.get("lookups", ())]
    return {**options, "lookups": lookups}

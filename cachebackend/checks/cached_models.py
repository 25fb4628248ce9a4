"""Checks of the models in ``RINGCACHE["models"]``, of ignored fields, and of other caches of queries."""

from __future__ import annotations

import inspect
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004  # Django's name

from cachebackend.invalidation.watched import all_dependents
from cachebackend.managers.cached import CachedManager
from cachebackend.managers.configured import NAME, ConfiguredManager, configured_models, unknown_labels

__all__ = ["check_configured_managers", "check_ignored_fields", "check_model_labels", "check_query_caches"]

#: Apps that replace methods by which Django runs queries, and how to keep their results away from a model.
_QUERY_CACHES = {
    "cachalot": "Name the tables of models with a CachedManager in CACHALOT_UNCACHABLE_TABLES.",
    "cacheops": "Remove the models that have a CachedManager from CACHEOPS.",
}


def check_model_labels(**_: Any) -> list[CheckMessage]:
    """ringcache.E018: ``RINGCACHE["models"]`` names a model, or an app, that is not installed."""
    return [
        Error(
            f"RINGCACHE['models']: there is no model {label}."
            if not label.endswith(".*")
            else f"RINGCACHE['models']: no installed app {label[:-2]!r} has models.",
            hint="Name installed models by label, as in 'auth.User', or all of an app, as in 'auth.*'.",
            id="ringcache.E018",
        )
        for label in unknown_labels()
    ]


def check_configured_managers(**_: Any) -> list[CheckMessage]:
    """ringcache.W017: ``RINGCACHE["models"]`` cannot give a model ``cached``: it has such an attribute."""
    return [
        Warning(
            f"{model._meta.label} has an attribute 'cached' of its own, so RINGCACHE['models'] gives it no "
            "manager: it is watched, and the options have no effect.",
            hint="Write the options into the model, or remove them.",
            obj=model,
            id="ringcache.W017",
        )
        for model, options in configured_models().items()
        for own in [inspect.getattr_static(model, NAME, None)]
        if not isinstance(own, ConfiguredManager) and (options or not isinstance(own, CachedManager))
    ]


def check_ignored_fields(**_: Any) -> list[CheckMessage]:
    """ringcache.E019: a ``CachedManager`` ignores a field that the model does not have."""
    return [
        Error(
            f"{model._meta.label}.{dependent.name} ignores {name!r}, which is not a field of the model.",
            hint="Remove it from ignore=[…].",
            obj=model,
            id="ringcache.E019",
        )
        for model, dependent in all_dependents()
        if isinstance(dependent, CachedManager)
        for name in dependent.ignore
        if name not in {field.name for field in model._meta.concrete_fields}
    ]


def check_query_caches(**_: Any) -> list[CheckMessage]:
    """ringcache.W018: another cache of queries may answer those that fill this one, with an old result."""
    return [
        Warning(
            f"{name} is installed. It may answer a query whose result a CachedManager stores, and its answer "
            "may be older than the last commit.",
            hint=f"{hint} Then silence this check.",
            id="ringcache.W018",
        )
        for name, hint in _QUERY_CACHES.items()
        if apps.is_installed(name) and any(isinstance(each, CachedManager) for _, each in all_dependents())
    ]

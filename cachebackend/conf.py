"""Reads Django's settings into options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from cachebackend.errors import ConfigurationError
from cachebackend.options import Faults, ProjectOptions, RingOptions, WriteBehindOptions
from cachebackend.options.other_backends import ALIAS_SETTINGS
from cachebackend.options.rules import Integer, Number, Optional, Rule

__all__ = [
    "BACKENDS",
    "DRAIN_QUEUE",
    "PERIODIC_QUEUE",
    "alias_of",
    "beat_entries",
    "current_namespace",
    "has_write_behind",
    "namespace_function",
    "project_options",
    "ring_aliases",
    "ring_options",
    "write_behind_options",
]

#: The dotted paths under which ``CACHES`` may name the backend.
BACKENDS = ("cachebackend.RingCache", "cachebackend.backend.RingCache")
#: The default name of Celery's queue for the drains.
DRAIN_QUEUE = "drains"
#: The default name of Celery's queue for ``relay`` and ``tick``.
PERIODIC_QUEUE = "periodic"

#: The settings that a block of ``CACHES`` may have, and their rules; Django checks none of them.
_BLOCK_RULES: dict[str, Rule | None] = {
    **dict.fromkeys(("BACKEND", "KEY_FUNCTION", "KEY_PREFIX", "LOCATION", "OPTIONS")),
    "TIMEOUT": Optional(Number(float("-inf"), unit=" seconds")),
    "VERSION": Integer(0, 2**31),
}


def ring_aliases() -> list[str]:
    """Return the cache aliases that are ring caches."""
    return [alias for alias, block in settings.CACHES.items() if block.get("BACKEND") in BACKENDS]


def alias_of(location: object, options: object) -> str:
    """Return the alias that has this block; "…" if none has. Django does not pass the alias to a backend."""
    for alias, block in settings.CACHES.items():
        if block.get("LOCATION", "") == location and block.get("OPTIONS", {}) == options:
            return str(alias)
    return "…"


def ring_options(alias: str) -> RingOptions:
    """Return the options of an alias.

    Raises:
        ConfigurationError: The block has faults; the message names each of them.
    """
    block: Mapping[str, Any] = settings.CACHES[alias]
    faults = Faults(f"CACHES[{alias!r}]")
    for name, value in block.items():
        if name in ALIAS_SETTINGS:
            faults.add(name, f"is a setting of django-redis; here {ALIAS_SETTINGS[name]}")
        elif name not in _BLOCK_RULES:
            faults.add(name, f"unknown setting; known are {', '.join(sorted(_BLOCK_RULES))}")
        elif (rule := _BLOCK_RULES[name]) and (fault := rule.fault(value)):
            faults.add(name, fault)
    faults.raise_any()
    return RingOptions.read(block.get("LOCATION", ()), block.get("OPTIONS", {}), f"CACHES[{alias!r}]")


def beat_entries(task: str) -> list[Mapping[str, Any]]:
    """Return what Celery's schedules have of a task; the settings may have any namespace.

    Args:
        task: Its name in ``cachebackend.tasks``.
    """
    schedules = [getattr(settings, name) for name in dir(settings) if name.endswith("BEAT_SCHEDULE")]
    entries = [entry for each in schedules if isinstance(each, Mapping) for entry in each.values()]
    path = f"cachebackend.tasks.{task}"
    return [entry for entry in entries if isinstance(entry, Mapping) and entry.get("task") == path]


@cache
def write_behind_options() -> WriteBehindOptions:
    """Return the options of write-behind; without the setting, write-behind is off.

    Raises:
        ConfigurationError: The setting has faults; the message names each of them.
    """
    return WriteBehindOptions.read(getattr(settings, "WRITE_BEHIND", {}))


def has_write_behind() -> bool:
    """Return whether write-behind is on; False too if its settings have faults, which the checks report."""
    try:
        return write_behind_options().is_on
    except ConfigurationError:
        return False


@cache
def project_options() -> ProjectOptions:
    """Return the options of the project; without the setting, every option has its default.

    Raises:
        ConfigurationError: The setting has faults; the message names each of them.
    """
    return ProjectOptions.read(getattr(settings, "RINGCACHE", {}))


@cache
def namespace_function() -> Callable[[], str] | None:
    """Return the function that ``RINGCACHE["namespace"]`` names; None if the project has one namespace.

    Raises:
        ImportError: There is no such function.
    """
    path = project_options().namespace
    function: Callable[[], str] | None = import_string(path) if path else None
    return function


def current_namespace() -> str:
    """Return the namespace of the calling thread or task; empty if the project has one namespace.

    Raises:
        ImproperlyConfigured: The project's function does not return a text.
    """
    function = namespace_function()
    if function is None:
        return ""
    namespace = function()
    if not isinstance(namespace, str):
        message = (
            f"RINGCACHE['namespace']: {project_options().namespace}() must return a str, not {namespace!r}"
        )
        raise ImproperlyConfigured(message)
    return namespace


def _follow_settings(*, setting: str, **_: Any) -> None:
    if setting == "WRITE_BEHIND":
        write_behind_options.cache_clear()
    elif setting == "RINGCACHE":
        project_options.cache_clear()
        namespace_function.cache_clear()


setting_changed.connect(_follow_settings, dispatch_uid="cachebackend.conf")

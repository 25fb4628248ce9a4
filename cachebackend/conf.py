"""Django's settings, read into options."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from cachebackend.options import RingOptions, WriteBehindOptions

__all__ = ["BACKEND", "alias_of", "ring_aliases", "ring_options", "write_behind_options"]

#: The dotted path that ``CACHES`` names.
BACKEND = "cachebackend.RingCache"


def ring_aliases() -> list[str]:
    """Return the cache aliases that are ring caches."""
    return [alias for alias, block in settings.CACHES.items() if block.get("BACKEND") == BACKEND]


def alias_of(location: object, options: object) -> str:
    """Return the alias whose block says this, for a backend is not told its own; "…" if none does."""
    for alias, block in settings.CACHES.items():
        if block.get("LOCATION", "") == location and block.get("OPTIONS", {}) == options:
            return str(alias)
    return "…"


def ring_options(alias: str) -> RingOptions:
    """Return the options of an alias.

    Raises:
        ConfigurationError: With every fault of the block.
    """
    block: Mapping[str, Any] = settings.CACHES[alias]
    return RingOptions.read(block.get("LOCATION", ()), block.get("OPTIONS", {}), f"CACHES[{alias!r}]")


@cache
def write_behind_options() -> WriteBehindOptions:
    """Return the options of write-behind; without the setting it is off.

    Raises:
        ConfigurationError: With every fault of the block.
    """
    return WriteBehindOptions.read(getattr(settings, "WRITE_BEHIND", {}))


def _follow_settings(*, setting: str, **_: Any) -> None:
    if setting == "WRITE_BEHIND":
        write_behind_options.cache_clear()


setting_changed.connect(_follow_settings, dispatch_uid="cachebackend.conf")

"""A Django cache backend over a ring of Redis or Valkey nodes, and write-behind into Postgres.

``CACHES`` names ``cachebackend.RingCache``; models use the managers below. ``pyproject.toml``
lists the layers from top to bottom, and ``lint-imports`` enforces them: Django at the top, the
protocol without Django in the middle, plain values at the bottom. Never imports Celery, except in
``cachebackend.tasks``, which nothing else imports.
"""

from typing import TYPE_CHECKING, Any

from cachebackend.imports import import_at_first_use

if TYPE_CHECKING:
    from cachebackend.backend import RingCache
    from cachebackend.decorators import cached
    from cachebackend.invalidation import invalidate
    from cachebackend.managers import CachedManager
    from cachebackend.queries import InvalidatingManager, InvalidatingQuerySet
    from cachebackend.writebehind import WriteBehindManager, uuid7

__all__ = [
    "CachedManager",
    "InvalidatingManager",
    "InvalidatingQuerySet",
    "RingCache",
    "WriteBehindManager",
    "cached",
    "invalidate",
    "uuid7",
]

#: The package that defines each public name.
_PACKAGES = {
    "CachedManager": "managers",
    "InvalidatingManager": "queries",
    "InvalidatingQuerySet": "queries",
    "RingCache": "backend",
    "WriteBehindManager": "writebehind",
    "cached": "decorators",
    "invalidate": "invalidation",
    "uuid7": "writebehind",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: models cannot be imported before the apps are loaded."""
    if name not in _PACKAGES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_at_first_use(f"{__name__}.{_PACKAGES[name]}"), name)

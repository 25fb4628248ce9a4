"""A Django cache backend over a ring of Redis or Valkey nodes, and write-behind into Postgres.

``CACHES`` names ``cachebackend.RingCache``; models use the managers below. The layers,
top to bottom, stand in ``pyproject.toml`` and are enforced: Django at the top, pure
protocol in the middle, plain values at the bottom. Never imports Celery: ``workers`` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachebackend.backend import RingCache
    from cachebackend.decorators import cached
    from cachebackend.invalidation import InvalidatingManager, InvalidatingQuerySet, invalidate
    from cachebackend.managers import CachedManager
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

_HOMES = {
    "CachedManager": "managers",
    "InvalidatingManager": "invalidation",
    "InvalidatingQuerySet": "invalidation",
    "RingCache": "backend",
    "WriteBehindManager": "writebehind",
    "cached": "decorators",
    "invalidate": "invalidation",
    "uuid7": "writebehind",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: models cannot load before Django's apps."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

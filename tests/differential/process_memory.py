"""What a process remembers of queries, so that one process can read and write as if it were two."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from django.core.cache import caches

from cachebackend.backend import find_ring_cache
from cachebackend.invalidation import catalogue, shape_registry
from cachebackend.queries import construction, plans, tables

__all__ = ["ProcessMemory"]

_Memory = MutableMapping[Any, Any]


class ProcessMemory:
    """The memories of two processes, of which one is in use."""

    def __init__(self) -> None:
        self._other: list[dict[Any, Any]] = []

    def exchange(self) -> None:
        """Put what this process remembers aside, and take what the other one remembers."""
        memories = _memories()
        other = self._other or [{} for _ in memories]
        self._other = [dict(each) for each in memories]
        for memory, content in zip(memories, other, strict=True):
            memory.clear()
            memory.update(content)

    def forget(self) -> None:
        """Forget everything, as a process that has just started."""
        for memory in _memories():
            memory.clear()


def _memories() -> list[_Memory]:
    found: list[_Memory] = [
        plans._plans,
        construction._begun,
        construction._known,
        construction._remembered,
        shape_registry._known,
        tables._models,
        catalogue._catalogues,
        catalogue._fields,
    ]
    found_caches = map(find_ring_cache, caches.settings)
    return found + [cache.client.context.known_tags for cache in found_caches if cache is not None]

"""``CachedManager``: one line in a model that caches its rows and invalidates them when they change.

``rows`` turns rows into values that survive a change of the model; ``keys`` makes the keys that
they are stored under; ``by_key`` reads rows through the ring; ``cached`` is the manager, whose other
methods are those of ``queries``; ``audit`` compares cached rows with the database.

Imports ``invalidation``, which deletes the keys of changed rows. Never deletes after a write
itself.
"""

from cachebackend.managers.cached import CachedManager

__all__ = ["CachedManager"]

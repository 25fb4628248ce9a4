"""``CachedManager``: one line in a model that caches its rows and keeps them right.

``rows`` turns rows into values that survive a change of the model; ``keys`` says what they
are kept under; ``cached`` reads them through the ring. Invalidation is the layer below's.
"""

from cachebackend.managers.cached import CachedManager

__all__ = ["CachedManager"]

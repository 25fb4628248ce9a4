"""Django's cache API over the ring.

``cache`` has the methods: each names an operation of ``protocol``, its async twin the same
one. ``keyed`` makes what Django calls a key, a timeout and a version into what the nodes
know. Nothing here decides how an operation works.
"""

from cachebackend.backend.aliases import ring_cache
from cachebackend.backend.cache import RingCache
from cachebackend.backend.keys import Tag, Timeout

__all__ = ["RingCache", "Tag", "Timeout", "ring_cache"]

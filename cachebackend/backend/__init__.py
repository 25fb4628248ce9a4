"""Django's cache API over the ring.

``cache`` has ``RingCache``, the class that ``CACHES`` names. Its methods are in one module for
each thing that they serve: ``single_key``, ``many_keys``, ``loaders`` and ``extras``; each async
twin is beside its sync method, and both run the same operation of ``protocol``. ``keys`` turns
the keys, versions, timeouts and tags of the caller into keys and milliseconds. ``scope``,
``canonical`` and ``tag_names`` make the names of rows and tags. ``fill_rules`` says when a loaded
value may be stored, and ``open_transactions`` what a transaction has done so far.

Imports the client, the protocol and the settings. Never decides how an operation works, and
never imports ``invalidation`` or ``managers``.
"""

from cachebackend.backend.aliases import find_ring_cache, ring_cache
from cachebackend.backend.cache import RingCache
from cachebackend.backend.keys import Timeout
from cachebackend.backend.tag_names import Tag

__all__ = ["RingCache", "Tag", "Timeout", "find_ring_cache", "ring_cache"]

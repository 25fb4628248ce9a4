"""The near cache: copies in the process, dropped when the nodes say that their keys changed.

Holds what was read, rows and loaded values too, for at most ``max_age``. ``cache`` is the copies; the nodes'
word comes by ``node.tracking``. Never holds what is stale, or vouched for by tags.
"""

from cachebackend.near.cache import MISS, NearCache

__all__ = ["MISS", "NearCache"]

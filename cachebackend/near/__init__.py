"""The near cache: copies in the process of values that were read from the nodes.

A copy is dropped when its node sends an invalidation message for its key (``node.tracking`` receives
these), and after ``max_age`` seconds at the latest. Copies of rows and loaded values are stored too.
Stale values and values with tags are never copied. The package imports ``policies``, ``options`` and
``clock``, and never sends a command.
"""

from cachebackend.near.cache import MISS, NearCache

__all__ = ["MISS", "NearCache"]

"""The cache backend that ``CACHES`` names."""

from __future__ import annotations

from cachebackend import protocol
from cachebackend.backend.extras import ExtraMethods
from cachebackend.backend.loaders import LoaderMethods
from cachebackend.backend.many_keys import ManyKeyMethods
from cachebackend.backend.single_key import SingleKeyMethods

__all__ = ["RingCache"]


class RingCache(SingleKeyMethods, ManyKeyMethods, LoaderMethods, ExtraMethods):
    """A cache spread over the nodes that ``LOCATION`` names.

    Args:
        location: The URLs of the nodes.
        params: The alias' block of ``CACHES``.

    The first use of the cache raises the faults of the block, not the constructor, so that
    ``manage.py check`` can report all of them.
    """

    def clear(self) -> None:
        """Delete every key of this alias' prefix, in all versions, on all nodes.

        Raises:
            RingCacheError: The alias has a ``KEY_FUNCTION`` that hides the key, so no pattern
                matches the keys of this alias only.
        """
        pattern = self.pattern
        self._end_leases_under(b"")
        self.client.run(protocol.clear(self.client.context, pattern))

    async def aclear(self) -> None:
        """Delete every key of this alias' prefix, as ``clear``."""
        pattern = self.pattern
        self._end_leases_under(b"")
        await self.client.arun(protocol.clear(self.client.context, pattern))

"""The part of a cache object that all of its methods use: the client of its alias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cachebackend import protocol
from cachebackend.backend.keys import KeyCache
from cachebackend.backend.test_prefix import with_test_prefix
from cachebackend.client import RingClient
from cachebackend.conf import alias_of
from cachebackend.errors import NodeUnavailableError
from cachebackend.options import RingOptions
from cachebackend.properties import cached_property
from cachebackend.registry import ring_client

__all__ = ["ClientCache"]


class ClientCache(KeyCache):
    """A cache whose operations a client runs.

    Args:
        location: The URLs of the nodes.
        params: The alias' block of ``CACHES``.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._location = location
        self._options: Mapping[str, Any] = params.get("OPTIONS", {})
        self._given_prefix = self.key_prefix
        self.set_prefix()

    def set_prefix(self) -> None:
        """Set the prefix of the keys: that of the settings; tests have one of their own."""
        self.key_prefix = with_test_prefix(self._given_prefix)
        self.__dict__.pop("client", None)  # it knows the pattern of the keys

    @cached_property
    def client(self) -> RingClient:
        """The client that the threads and tasks of the alias share; the first use creates it.

        Raises:
            ConfigurationError: The alias' block has faults; the message names each of them.
        """
        path = f"CACHES[{alias_of(self._location, self._options)!r}]"
        client = ring_client(RingOptions.read(self._location, self._options, path))
        if self.can_clear:
            client.context.patterns.add(self.pattern)
        else:  # the keys of this alias cannot be cleared from a node, so each missed delete is kept
            client.context.missed.limit = math.inf
        return client

    def _context(self, *, near: bool) -> protocol.Context:
        """Return the context of the alias, with or without the near cache."""
        context = self.client.context
        return context if near else context.without_near()

    def _raise_unconfirmed(self, unconfirmed: list[bytes]) -> None:
        """Raise an error if a node did not confirm a delete and the options ask for that error."""
        if unconfirmed and self.client.context.options.on_node_failure == "raise":
            message = f"{len(unconfirmed)} keys could not be deleted: their node did not answer"
            raise NodeUnavailableError(message)

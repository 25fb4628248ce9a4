"""Leases that a request holds, for the option ``lease_on_get``.

A ``get`` that misses takes a lease, the ``set`` of the same key presents it, and the end of the
request releases the leases that no ``set`` used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from cachebackend import protocol
from cachebackend.backend import fill_rules
from cachebackend.backend.client_cache import ClientCache
from cachebackend.backend.keys import Timeout

__all__ = ["LeasingCache"]

#: Leases that one request may hold at once. The oldest is forgotten, and expires on its node.
_MAX_LEASES = 10_000


class LeasingCache(ClientCache):
    """A cache that remembers the leases of the current request."""

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(location, params)
        #: The lease of each key that missed in this request; None: another caller holds the lease.
        self._leases: dict[bytes, protocol.Lease] = {}

    @cached_property
    def _leases_on_get(self) -> bool:
        return self.client.context.options.lease_on_get

    def _get_and_lease(self, key: bytes, default: Any, *, near: bool) -> protocol.Operation[Any]:
        """Return the value of a key; on a miss, remember its lease until the request ends.

        If a value that is loaded now may not be stored, no lease is acquired, and the set is refused.
        """
        if not (yield from fill_rules.ask_may_fill()):
            value = yield from protocol.get(self._context(near=near), key, protocol.MISSING)
            if value is protocol.MISSING:
                self._remember_leases({key: None})
                return default
            return value
        value, lease = yield from protocol.get_and_lease(self._context(near=near), key, default)
        if lease is protocol.HIT:
            self._leases.pop(key, None)
        else:
            self._remember_leases({key: lease})
        return value

    def _get_many_and_lease(
        self, keys: Mapping[Any, bytes], *, near: bool
    ) -> protocol.Operation[dict[Any, Any]]:
        """Return the values of the keys that hit; remember the leases of the keys that missed."""
        if not (yield from fill_rules.ask_may_fill()):
            values = yield from protocol.get_many(self._context(near=near), keys)
            self._remember_leases({key: None for name, key in keys.items() if name not in values})
            return values
        values, leases = yield from protocol.get_many_and_lease(self._context(near=near), keys)
        for name in values:
            self._leases.pop(keys[name], None)
        self._remember_leases(leases)
        return values

    def _remember_leases(self, leases: Mapping[bytes, protocol.Lease]) -> None:
        for key, lease in leases.items():
            if lease is None and self._leases.get(key) is not None:
                continue  # the lease that blocked this get may be the one that this request holds
            self._leases[key] = lease
        while len(self._leases) > _MAX_LEASES:
            self._leases.pop(next(iter(self._leases)))

    def _set_with_lease(self, key: bytes, value: Any, timeout: Timeout) -> protocol.Operation[bool]:
        leases = yield from self._take_leases([key])
        ttl_ms = self.ttl_ms(timeout)
        return (yield from protocol.set_with_lease(self.client.context, key, value, ttl_ms, leases[key]))

    def _take_leases(self, keys: Iterable[bytes]) -> protocol.Operation[dict[bytes, protocol.Lease]]:
        """Forget the remembered leases of keys and return them: None for keys that may not be filled."""
        leases = {key: self._leases.pop(key) for key in keys}
        if not (yield from fill_rules.ask_may_fill()):
            yield from protocol.release(self.client.context, leases)
            return dict.fromkeys(leases)
        return leases

    def close(self, **kwargs: Any) -> None:
        """Release the leases that the request did not use. Django calls it when a request ends.

        The connections stay open.
        """
        if self._leases:
            leases, self._leases = self._leases, {}
            self.client.run(protocol.release(self.client.context, leases))

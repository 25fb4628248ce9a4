"""Leases that a request holds, for the option ``lease_on_get``.

A ``get`` that misses takes a lease, the ``set`` of the same key presents it, and the end of the
request releases the leases that no ``set`` used. Any other write of the key by the same request ends
its lease: it supersedes what the request read before, so the next ``set`` is a plain one. A rollback
of changes makes the next ``set`` a refused one: its value may come from them.

    1. request   get(key)           -> nothing; the lease is acquired and remembered
    2. request   BEGIN, UPDATE, SELECT -> the new row
    3. request   ROLLBACK           -> no delete follows, and the lease is valid
    4. request   set(key, new)      -> refused
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from cachebackend import protocol
from cachebackend.backend import fill_rules
from cachebackend.backend.client_cache import ClientCache
from cachebackend.backend.keys import Timeout
from cachebackend.backend.open_transactions import rollbacks

__all__ = ["LeasingCache"]

#: Leases that one request may hold at once. The oldest is forgotten, and expires on its node.
_MAX_LEASES = 10_000


class _Remembered(NamedTuple):
    """The lease of a key that missed in this request.

    Attributes:
        lease: The lease; None: another caller holds it.
        since: The number of rollbacks in this process before the miss.
    """

    lease: protocol.Lease
    since: int


class LeasingCache(ClientCache):
    """A cache that remembers the leases of the current request."""

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(location, params)
        #: The lease of each key that missed in this request.
        self._leases: dict[bytes, _Remembered] = {}

    @cached_property
    def _leases_on_get(self) -> bool:
        return self.client.context.options.lease_on_get

    def _get_and_lease(self, key: bytes, default: Any, *, near: bool) -> protocol.Operation[Any]:
        """Return the value of a key; on a miss, remember its lease until the request ends.

        If a value that is loaded now may not be stored, no lease is acquired, and the set is refused.
        """
        context, held = self._context(near=near), self._held([key])
        if (yield from fill_rules.ask_may_fill()):
            value, lease = yield from protocol.get_and_lease(context, key, default, held)
        else:
            value, lease = (yield from protocol.get(context, key, protocol.MISSING)), protocol.NOT_LEASED
            if value is protocol.MISSING:
                value, lease = default, held.get(key)
        self._end_leases([key])
        if lease is not protocol.NOT_LEASED:
            self._remember_leases({key: lease})
        return value

    def _get_many_and_lease(
        self, keys: Mapping[Any, bytes], *, near: bool
    ) -> protocol.Operation[dict[Any, Any]]:
        """Return the values of the keys that hit; remember the leases of the keys that missed."""
        context, held = self._context(near=near), self._held(keys.values())
        if (yield from fill_rules.ask_may_fill()):
            values, leases = yield from protocol.get_many_and_lease(context, keys, held)
        else:
            values = yield from protocol.get_many(context, keys)
            leases = {key: held.get(key) for name, key in keys.items() if name not in values}
        self._end_leases(keys.values())
        self._remember_leases(leases)
        return values

    def _remember_leases(self, leases: Mapping[bytes, protocol.Lease]) -> None:
        since = rollbacks()
        self._leases |= {key: _Remembered(lease, since) for key, lease in leases.items()}
        while len(self._leases) > _MAX_LEASES:
            self._leases.pop(next(iter(self._leases)))

    def _held(self, keys: Iterable[bytes]) -> dict[bytes, protocol.Lease]:
        """Return the remembered leases of keys."""
        return {key: self._leases[key].lease for key in keys if key in self._leases}

    def _end_leases(self, keys: Iterable[bytes]) -> None:
        """Forget the leases of keys, because the caller has written the keys itself."""
        if self._leases:
            for key in keys:
                self._leases.pop(key, None)

    def _end_leases_under(self, prefix: bytes) -> None:
        """Forget the leases of all keys with a prefix."""
        self._end_leases([key for key in self._leases if key.startswith(prefix)])

    def _release(self, keys: Iterable[bytes]) -> protocol.Operation[None]:
        """Release the leases of keys that this request loads next: the load would wait for them."""
        leases = self._held(keys)
        self._end_leases(leases)
        yield from protocol.release(self.client.context, leases)

    def _set_with_lease(self, key: bytes, value: Any, timeout: Timeout) -> protocol.Operation[bool]:
        leases = yield from self._take_leases([key])
        ttl_ms = self.ttl_ms(timeout)
        return (yield from protocol.set_with_lease(self.client.context, key, value, ttl_ms, leases[key]))

    def _take_leases(self, keys: Iterable[bytes]) -> protocol.Operation[dict[bytes, protocol.Lease]]:
        """Forget the remembered leases of keys and return them: None for keys that may not be filled."""
        remembered = {key: self._leases.pop(key) for key in keys}
        leases = {key: each.lease for key, each in remembered.items()}
        since = min(each.since for each in remembered.values())
        if (yield from fill_rules.ask_may_store()) and not (yield from fill_rules.ask_rolled_back(since)):
            return leases
        yield from protocol.release(self.client.context, leases)
        return dict.fromkeys(leases)

    def close(self, **kwargs: Any) -> None:
        """Release the leases that the request did not use. Django calls it when a request ends.

        The connections stay open.
        """
        if self._leases:
            leases = self._held(self._leases)
            self._leases = {}
            self.client.run(protocol.release(self.client.context, leases))

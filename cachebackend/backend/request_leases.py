"""Leases that a request holds, for the option ``lease_on_get``.

A ``get`` that misses takes a lease, and each ``set`` of the key presents it, until a write of the key by
the same request is stored. Reading the key again changes nothing: the value that ``set`` gets may
have been loaded after the first miss. The end of the request releases the leases that it still holds.

    1. request   get(key)           -> nothing; the lease is acquired and remembered
    2. request   loads the old row
    3. writer    COMMIT, DEL key    -> the lease is gone; another process stores the new row
    4. request   get(key)           -> the new row; the lease of 1 is still required
    5. request   set(key, old)      -> refused

A rollback of changes makes the next ``set`` a refused one, too: its value may come from them.

    1. request   get(key)           -> nothing; the lease is acquired and remembered
    2. request   BEGIN, UPDATE, SELECT -> the new row
    3. request   ROLLBACK           -> no delete follows, and the lease is valid
    4. request   set(key, new)      -> refused
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cachebackend import protocol
from cachebackend.backend import fill_rules
from cachebackend.backend.client_cache import ClientCache
from cachebackend.backend.keys import Timeout
from cachebackend.backend.open_transactions import rollbacks
from cachebackend.backend.remembered_leases import RememberedLeases
from cachebackend.properties import cached_property

__all__ = ["LeasingCache"]

#: Seconds after which a miss is forgotten in a process that serves no requests: nothing ends there.
_LONGEST_REQUEST = 60.0


class LeasingCache(ClientCache):
    """A cache that remembers the leases of the current request."""

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(location, params)
        #: The lease of each key that missed in this request.
        self._leases = RememberedLeases()

    @cached_property
    def _leases_on_get(self) -> bool:
        return self.client.context.options.lease_on_get

    def _get_and_lease(self, key: bytes, default: Any, *, near: bool) -> protocol.Operation[Any]:
        """Return the value of a key; on the first miss, remember its lease until the request ends.

        If a value that is loaded now may not be stored, no lease is acquired, and the set is refused.
        """
        context = self._context(near=near)
        if self._required([key]):
            return (yield from protocol.get(context, key, default))
        if (yield from fill_rules.ask_may_fill()):
            value, lease = yield from protocol.get_and_lease(context, key, default)
        else:
            value, lease = (yield from protocol.get(context, key, protocol.MISSING)), protocol.NOT_LEASED
            if value is protocol.MISSING:
                value, lease = default, None
        if lease is not protocol.NOT_LEASED:
            self._remember_leases({key: lease})
        return value

    def _get_many_and_lease(
        self, keys: Mapping[Any, bytes], *, near: bool
    ) -> protocol.Operation[dict[Any, Any]]:
        """Return the values of the keys that hit; remember the leases of the keys that missed first."""
        context, required = self._context(near=near), self._required(keys.values())
        if (yield from fill_rules.ask_may_fill()):
            values, leases = yield from protocol.get_many_and_lease(context, keys, required)
        else:
            values = yield from protocol.get_many(context, keys)
            leases = {key: None for name, key in keys.items() if name not in values and key not in required}
        if leases:
            self._remember_leases(leases)
        return values

    def _remember_leases(self, leases: Mapping[bytes, protocol.Lease]) -> None:
        self._leases.add(leases, rollbacks(), self.client.context.clock.monotonic())

    def _required(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys whose set must present a lease already."""
        if not self._leases:
            return set()
        required = {key for key in keys if key in self._leases}
        old = self._old(required)
        self._end_leases(old)
        return required - old

    def _old(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys that missed longer ago than a request lasts."""
        limit = max(_LONGEST_REQUEST, self.client.context.options.lease_timeout)
        earliest = self.client.context.clock.monotonic() - limit
        return {key for key in keys if (each := self._leases.find(key)) and each.missed_at < earliest}

    def _end_leases(self, keys: Iterable[bytes]) -> None:
        """Forget the leases of keys, because the caller has written the keys itself."""
        if self._leases:
            self._leases.end(keys)

    def _end_leases_under(self, prefix: bytes) -> None:
        """Forget the leases of all keys with a prefix."""
        self._leases.end_where(lambda key: key.startswith(prefix))

    def _release(self, keys: Iterable[bytes]) -> protocol.Operation[set[bytes]]:
        """Release the leases of keys that this request loads next: the load would wait for them.

        Returns:
            The keys whose set must present a lease. It is refused: the value of the load may be newer.
        """
        required = self._required(keys)
        leases = self._lease_of_each(required)
        self._leases.refuse(required)
        yield from protocol.release(self.client.context, leases)
        return required

    def _end_leases_of_loader(self, keys: Iterable[bytes], required: Collection[bytes]) -> None:
        """Forget what a loader's own gets of the keys that it loads have missed.

        The values were stored, or refused, under the lease of the load.
        """
        self._end_leases([key for key in keys if key not in required])

    def _set_with_lease(self, key: bytes, value: Any, timeout: Timeout) -> protocol.Operation[bool]:
        _, stored = yield from self._set_many_with_lease({key: key}, {key: value}, self.ttl_ms(timeout))
        return key in stored

    def _set_many_with_lease(
        self, keys: Mapping[Any, bytes], values: Mapping[Any, Any], ttl_ms: int | None
    ) -> protocol.Operation[tuple[list[Any], set[bytes]]]:
        """Store values under the remembered leases of their keys.

        Returns:
            The caller's names of the keys that no node confirmed, and the keys that were stored.
        """
        leases = yield from self._leases_to_present(keys.values())
        failed, stored = yield from protocol.set_many_with_lease(
            self.client.context, keys, values, ttl_ms, leases
        )
        refused = leases.keys() - stored
        old = self._old(refused)
        self._end_leases(stored | old)
        self._leases.refuse(refused - old)
        return failed, stored

    def _leases_to_present(self, keys: Iterable[bytes]) -> protocol.Operation[dict[bytes, protocol.Lease]]:
        """Return the remembered leases of keys: None for keys that may not be filled."""
        remembered = {key: self._leases.find(key) for key in keys}
        leases = {key: each.lease if each else None for key, each in remembered.items()}
        since = min((each.since for each in remembered.values() if each), default=rollbacks())
        if (yield from fill_rules.ask_may_store()) and not (yield from fill_rules.ask_rolled_back(since)):
            return leases
        yield from protocol.release(self.client.context, leases)
        return dict.fromkeys(leases)

    def _lease_of_each(self, keys: Iterable[bytes]) -> dict[bytes, protocol.Lease]:
        return {key: each.lease for key in keys if (each := self._leases.find(key)) is not None}

    def close(self, **kwargs: Any) -> None:
        """Release the leases that the request did not use. Django calls it when a request ends.

        The connections stay open.
        """
        if self._leases:
            leases = self._lease_of_each(self._leases.all())
            self._leases.end(leases)
            self.client.run(protocol.release(self.client.context, leases))

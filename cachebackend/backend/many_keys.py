"""The methods of Django's cache API that work on many keys in one round trip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from cachebackend import protocol
from cachebackend.backend.keys import Timeout
from cachebackend.backend.request_leases import LeasingCache

__all__ = ["ManyKeyMethods"]


class ManyKeyMethods(LeasingCache):
    """Methods that read, write or delete many keys."""

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, *, near: bool = True
    ) -> dict[Any, Any]:
        """Return the values of the keys that have one, in one round trip; ``near`` as for ``get``."""
        return self.client.run(self._get_many(keys, version, near=near))

    async def aget_many(
        self, keys: Iterable[Any], version: int | None = None, *, near: bool = True
    ) -> dict[Any, Any]:
        """Return the values of the keys that have one, as ``get_many``."""
        return await self.client.arun(self._get_many(keys, version, near=near))

    def _get_many(
        self, keys: Iterable[Any], version: int | None, *, near: bool
    ) -> protocol.Operation[dict[Any, Any]]:
        encoded = self._keys(keys, version)
        if self._leases_on_get:
            return self._get_many_and_lease(encoded, near=near)
        return protocol.get_many(self._context(near=near), encoded)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store many values in one round trip; return the keys whose node did not confirm."""
        return self.client.run(self._set_many(data, timeout, version))

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store many values in one round trip, as ``set_many``."""
        return await self.client.arun(self._set_many(data, timeout, version))

    def _set_many(
        self, data: Mapping[Any, Any], timeout: Timeout, version: int | None
    ) -> protocol.Operation[list[Any]]:
        context, keys, ttl_ms = self.client.context, self._keys(data, version), self.ttl_ms(timeout)
        leased = {name: key for name, key in keys.items() if key in self._leases} if self._leases else {}
        if not leased:
            return (yield from protocol.set_many(context, keys, data, ttl_ms))
        failed, _ = yield from self._set_many_with_lease(leased, data, ttl_ms)
        unleased = {name: key for name, key in keys.items() if name not in leased}
        if not unleased:
            return failed
        return failed + (yield from protocol.set_many(context, unleased, data, ttl_ms))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete many keys in one round trip."""
        self._raise_unconfirmed(self.client.run(self._delete_many(keys, version)))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete many keys in one round trip, as ``delete_many``."""
        self._raise_unconfirmed(await self.client.arun(self._delete_many(keys, version)))

    def _delete_many(self, keys: Iterable[Any], version: int | None) -> protocol.Operation[list[bytes]]:
        encoded = list(self._keys(keys, version).values())
        self._end_leases(encoded)
        return protocol.delete_many(self.client.context, encoded)

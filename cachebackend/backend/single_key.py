"""The methods of Django's cache API that work on one key."""

from __future__ import annotations

from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from cachebackend import protocol
from cachebackend.backend.keys import Timeout
from cachebackend.backend.request_leases import LeasingCache

__all__ = ["SingleKeyMethods"]


class SingleKeyMethods(LeasingCache):
    """Methods that read, write or delete one key."""

    # Reading

    def get(self, key: Any, default: Any = None, version: int | None = None, *, near: bool = True) -> Any:
        """Return the value of a key, or the default.

        Args:
            key: The key.
            default: The value to return if the key has none.
            version: The key's version.
            near: Whether a copy in the near cache may be returned, if the alias has a near cache.
        """
        # As key_bytes does: a hit in the near cache takes a microsecond, and a call would take a tenth of it
        encoded = self._encoded_keys.get(key) if version is None and key.__class__ is str else None
        if encoded is None:
            encoded = self.key_bytes(key, version)
        if self._leases_on_get:
            return self.client.run(self._get_and_lease(encoded, default, near=near))
        if not near:
            return self.client.run(protocol.get(self._context(near=False), encoded, default))
        return self.client.get(encoded, default)

    async def aget(
        self, key: Any, default: Any = None, version: int | None = None, *, near: bool = True
    ) -> Any:
        """Return the value of a key, or the default, as ``get``."""
        encoded = self.key_bytes(key, version)
        if self._leases_on_get:
            return await self.client.arun(self._get_and_lease(encoded, default, near=near))
        if not near:
            return await self.client.arun(protocol.get(self._context(near=False), encoded, default))
        return await self.client.aget(encoded, default)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key has a value."""
        return self.client.run(protocol.has_key(self.client.context, self.key_bytes(key, version)))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key has a value."""
        return await self.client.arun(protocol.has_key(self.client.context, self.key_bytes(key, version)))

    # Writing

    def set(  # type: ignore[override]  # Django's method returns None
        self,
        key: Any,
        value: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> bool:
        """Store a value; return whether it was stored.

        Args:
            key: The key.
            value: The value.
            timeout: Seconds until the value expires, as a number or a timedelta; None: never.
            version: The key's version.
            nx: Store only if the key has no value, as ``add``.
            xx: Store only if the key has a value.
        """
        if nx or xx:
            return self.client.run(self._set_if(key, value, timeout, version, nx=nx, xx=xx))
        encoded = self.key_bytes(key, version)
        if self._leases and encoded in self._leases:
            return self.client.run(self._set_with_lease(encoded, value, timeout))
        return self.client.set(encoded, value, self.ttl_ms(timeout))

    async def aset(  # type: ignore[override]  # Django's method returns None
        self,
        key: Any,
        value: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        nx: bool = False,
        xx: bool = False,
    ) -> bool:
        """Store a value, as ``set``."""
        if nx or xx:
            return await self.client.arun(self._set_if(key, value, timeout, version, nx=nx, xx=xx))
        encoded = self.key_bytes(key, version)
        if self._leases and encoded in self._leases:
            return await self.client.arun(self._set_with_lease(encoded, value, timeout))
        return await self.client.aset(encoded, value, self.ttl_ms(timeout))

    def _set_if(
        self, key: Any, value: Any, timeout: Timeout, version: int | None, *, nx: bool, xx: bool
    ) -> protocol.Operation[bool]:
        if nx and xx:
            message = "set() takes nx or xx, not both"
            raise ValueError(message)
        if nx:
            return self._add(key, value, timeout, version)
        return self._replace(key, value, timeout, version)

    def _replace(
        self, key: Any, value: Any, timeout: Timeout, version: int | None
    ) -> protocol.Operation[bool]:
        encoded, ttl_ms = self.key_bytes(key, version), self.ttl_ms(timeout)
        is_stored = yield from protocol.replace(self.client.context, encoded, value, ttl_ms)
        if is_stored:
            self._end_leases([encoded])
        return is_stored

    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Store a value if the key has none; return whether it was stored."""
        return self.client.run(self._add(key, value, timeout, version))

    async def aadd(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Store a value if the key has none, as ``add``."""
        return await self.client.arun(self._add(key, value, timeout, version))

    def _add(self, key: Any, value: Any, timeout: Timeout, version: int | None) -> protocol.Operation[bool]:
        encoded = self.key_bytes(key, version)
        is_stored = yield from protocol.add(self.client.context, encoded, value, self.ttl_ms(timeout))
        if is_stored:
            self._end_leases([encoded])
        return is_stored

    def touch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value a new timeout; return whether the key has a value."""
        return self.client.run(self._touch(key, timeout, version))

    async def atouch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value a new timeout, as ``touch``."""
        return await self.client.arun(self._touch(key, timeout, version))

    def _touch(self, key: Any, timeout: Timeout, version: int | None) -> protocol.Operation[bool]:
        encoded = self.key_bytes(key, version)
        has_value = yield from protocol.touch(self.client.context, encoded, self.ttl_ms(timeout))
        if has_value:
            self._end_leases([encoded])
        return has_value

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key; return whether its node held a record of it."""
        encoded = self.key_bytes(key, version)
        self._end_leases([encoded])
        return self.client.delete(encoded)

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key, as ``delete``."""
        encoded = self.key_bytes(key, version)
        self._end_leases([encoded])
        return await self.client.arun(protocol.delete(self.client.context, encoded))

    # Integers

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer and return the sum.

        Raises:
            ValueError: The key has no value.
            TypeError: The value, or the delta, is not an integer.
            OverflowError: The sum, or the delta, does not fit into 64 bits.
        """
        return _sum_or_raise(key, self.client.run(self._incr(key, delta, version)))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer and return the sum; raises as ``incr``."""
        return _sum_or_raise(key, await self.client.arun(self._incr(key, delta, version)))

    def _incr(self, key: Any, delta: int, version: int | None) -> protocol.Operation[int | None]:
        encoded = self.key_bytes(key, version)
        total = yield from protocol.incr(self.client.context, encoded, delta)
        if total is not None:
            self._end_leases([encoded])
        return total

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from an integer and return the difference; raises as ``incr``."""
        return await self.aincr(key, -delta, version)

    # Versions

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to another version of its key, with its timeout and tags; return that version.

        Raises:
            ValueError: The key has no value.
        """
        version = self.version if version is None else version
        return _moved_or_raise(key, version + delta, self.client.run(self._move(key, version, delta)))

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to another version of its key, as ``incr_version``."""
        version = self.version if version is None else version
        return _moved_or_raise(key, version + delta, await self.client.arun(self._move(key, version, delta)))

    def _move(self, key: Any, version: int, delta: int) -> protocol.Operation[bool]:
        source, target = self.key_bytes(key, version), self.key_bytes(key, version + delta)
        has_moved = yield from protocol.move(self.client.context, source, target)
        if has_moved:
            self._end_leases([source, target])
        return has_moved


def _sum_or_raise(key: Any, total: int | None) -> int:
    if total is None:
        raise ValueError(_not_found(key))
    return total


def _moved_or_raise(key: Any, version: int, has_moved: bool) -> int:
    if not has_moved:
        raise ValueError(_not_found(key))
    return version


def _not_found(key: Any) -> str:
    return f"Key '{key}' not found"

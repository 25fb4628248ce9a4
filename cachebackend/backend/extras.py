"""Methods that users of django-redis call beside Django's own, under the same names."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cachebackend import protocol
from cachebackend.backend.keys import ENCODING
from cachebackend.backend.request_leases import LeasingCache
from cachebackend.errors import RingCacheError

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient, RedisLock

__all__ = ["ExtraMethods"]

#: Keys that a node examines for one page of results.
_ITEM_COUNT = 1000
#: The prefix of the keys of locks. No key of an alias begins with it.
_LOCK = b"ringcache:lock:"
#: Where the literal beginning of a Redis pattern ends.
_WILDCARD = re.compile(r"[*?\[\\]")


class ExtraMethods(LeasingCache):
    """Times to live by name, keys by pattern, locks, and the redis-py client of a key's node."""

    # Times to live

    def ttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the remaining seconds of a value; 0: the key has none; None: it never expires."""
        return _seconds(self.pttl(key, version))

    async def attl(self, key: Any, version: int | None = None) -> int | None:
        """Return the remaining seconds of a value, as ``ttl``."""
        return _seconds(await self.apttl(key, version))

    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the remaining milliseconds of a value; 0: the key has none; None: it never expires."""
        return _remaining(self.client.run(protocol.ttl(self.client.context, self.key_bytes(key, version))))

    async def apttl(self, key: Any, version: int | None = None) -> int | None:
        """Return the remaining milliseconds of a value, as ``pttl``."""
        operation = protocol.ttl(self.client.context, self.key_bytes(key, version))
        return _remaining(await self.client.arun(operation))

    def persist(self, key: Any, version: int | None = None) -> bool:
        """Remove the timeout of a value; return whether the key has a value."""
        return self.touch(key, None, version)

    async def apersist(self, key: Any, version: int | None = None) -> bool:
        """Remove the timeout of a value, as ``persist``."""
        return await self.atouch(key, None, version)

    def expire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Expire a value after a timeout in seconds, or a timedelta; return whether the key has a value."""
        return self.touch(key, _in_seconds(timeout), version)

    async def aexpire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Expire a value after a timeout in seconds, as ``expire``."""
        return await self.atouch(key, _in_seconds(timeout), version)

    def pexpire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Expire a value after a timeout in milliseconds, or a timedelta; return whether the key has one."""
        return self.touch(key, _in_seconds(timeout, 1000), version)

    async def apexpire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Expire a value after a timeout in milliseconds, as ``pexpire``."""
        return await self.atouch(key, _in_seconds(timeout, 1000), version)

    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Expire a value at a time, or at seconds since 1970; return whether the key has a value."""
        return self.touch(key, self._seconds_until(when), version)

    async def aexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Expire a value at a time, as ``expire_at``."""
        return await self.atouch(key, self._seconds_until(when), version)

    def pexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Expire a value at a time, or at milliseconds since 1970; return whether the key has a value."""
        return self.expire_at(key, when if isinstance(when, datetime) else when / 1000, version)

    async def apexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Expire a value at a time, as ``pexpire_at``."""
        return await self.aexpire_at(key, when if isinstance(when, datetime) else when / 1000, version)

    def _seconds_until(self, when: datetime | float) -> float:
        moment = when.timestamp() if isinstance(when, datetime) else when
        return moment - self.client.context.clock.now()

    # Keys by pattern

    def iter_keys(
        self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT
    ) -> Iterator[str]:
        """Yield the keys that match a Redis pattern and have a value.

        A key that is written or deleted meanwhile may be missing.

        Raises:
            RingCacheError: The alias has a ``KEY_FUNCTION``, which cannot be reversed.
        """
        prefix, encoded = self._prefix_and_pattern(pattern, version)
        found = protocol.KeyScan(self.client.context, encoded, itersize)
        while not found.is_over:
            matches = self.client.run(found.page())
            yield from _texts(matches, prefix)

    async def aiter_keys(
        self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT
    ) -> AsyncIterator[str]:
        """Yield the keys that match a Redis pattern, as ``iter_keys``."""
        prefix, encoded = self._prefix_and_pattern(pattern, version)
        found = protocol.KeyScan(self.client.context, encoded, itersize)
        while not found.is_over:
            matches = await self.client.arun(found.page())
            for key in _texts(matches, prefix):
                yield key

    def keys(self, pattern: str = "*", version: int | None = None) -> list[str]:
        """Return the keys that match a Redis pattern, as ``iter_keys``."""
        return list(self.iter_keys(pattern, version))

    async def akeys(self, pattern: str = "*", version: int | None = None) -> list[str]:
        """Return the keys that match a Redis pattern, as ``iter_keys``."""
        return [key async for key in self.aiter_keys(pattern, version)]

    def delete_pattern(self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT) -> int:
        """Delete the keys that match a Redis pattern, leases included; return the number deleted.

        Args:
            pattern: The pattern.
            version: The keys' version.
            itersize: Ignored; code that was written for django-redis may give it. A node examines
                as many keys at a time as it can without delaying its other clients.
        """
        return self.client.run(self._delete_pattern(pattern, version))

    async def adelete_pattern(
        self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT
    ) -> int:
        """Delete the keys that match a Redis pattern, as ``delete_pattern``."""
        return await self.client.arun(self._delete_pattern(pattern, version))

    def _delete_pattern(self, pattern: str, version: int | None) -> protocol.Operation[int]:
        prefix, encoded = self._prefix_and_pattern(pattern, version)
        self._end_leases_under(prefix + _WILDCARD.split(pattern, 1)[0].encode(*ENCODING))
        return protocol.clear(self.client.context, encoded)

    def clear_all(self) -> None:
        """Delete every key in the nodes' databases; ``clear`` deletes the keys of this alias only."""
        self._end_leases_under(b"")
        self.client.run(protocol.flush(self.client.context))

    async def aclear_all(self) -> None:
        """Flush the nodes' databases, as ``clear_all``."""
        self._end_leases_under(b"")
        await self.client.arun(protocol.flush(self.client.context))

    def _prefix_and_pattern(self, pattern: str, version: int | None) -> tuple[bytes, bytes]:
        """Return the prefix of this version's keys, and the Redis pattern of the keys to find."""
        if not self.has_plain_keys:
            message = "keys cannot be found by pattern in an alias that has a KEY_FUNCTION"
            raise RingCacheError(message)
        prefix = f"{self.key_prefix}:{self.version if version is None else version}:".encode(*ENCODING)
        return prefix, self.escaped(prefix) + pattern.encode(*ENCODING)

    # redis-py

    def get_client(self, key: Any, version: int | None = None) -> RedisClient:
        """Return a redis-py client of the node that owns a key; the caller closes it.

        In a cluster, a command for another key is sent to the owner of that one; pipelines are not divided.
        """
        return self._redis(self.key_bytes(key, version))

    def lock(self, key: Any, version: int | None = None, **options: Any) -> RedisLock:
        """Return redis-py's lock of a name, on the node that owns the name.

        The lock is as reliable as that node: while the node is down nobody can acquire it, and
        a node that lost its memory has forgotten who holds it. The lock and the cached value
        of the same key do not affect each other, and ``clear`` does not release the lock.

        Args:
            key: The lock's name.
            version: The name's version.
            options: The arguments of ``redis.Redis.lock``: ``timeout``, ``blocking_timeout``, …
        """
        name = _LOCK + self.key_bytes(key, version)
        lock: RedisLock = self._redis(name).lock(name, **options)  # type: ignore[arg-type]  # bytes are allowed
        return lock

    def _redis(self, key: bytes) -> RedisClient:
        return self.client.redis(key)


def _texts(keys: Iterable[bytes], prefix: bytes) -> Iterator[str]:
    """Yield keys as the caller wrote them; skip those that are not text: no Django process wrote them."""
    for key in keys:
        with suppress(UnicodeDecodeError):
            yield key[len(prefix) :].decode(*ENCODING)


def _in_seconds(timeout: float | timedelta, units_per_second: int = 1) -> float:
    """Return a timeout in seconds: given in a unit of which a second has this many, or as a timedelta."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout / units_per_second


def _remaining(milliseconds: int) -> int | None:
    return None if milliseconds == -1 else max(0, milliseconds)


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else math.ceil(milliseconds / 1000)

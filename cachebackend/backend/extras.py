"""What users of django-redis call beside Django's own methods, by the same names and to the same end."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from cachebackend import protocol
from cachebackend.backend.keys import ENCODING, KeyCache
from cachebackend.client import RingClient
from cachebackend.errors import RingCacheError
from cachebackend.node import RedisClient, RedisLock

__all__ = ["ExtraMethods"]

#: Keys that a node looks at for one page.
_ITEM_COUNT = 1000
#: How the keys of locks begin; no alias' own keys look like it.
_LOCK = b"ringcache:lock:"


class ExtraMethods(KeyCache):
    """Times to live by name, keys by pattern, locks, and the redis-py client of a key's node."""

    client: RingClient

    # Times to live

    def ttl(self, key: Any, version: int | None = None) -> int | None:
        """Return for how many seconds a key has a value yet; 0: it has none; None: for ever."""
        return _seconds(self.pttl(key, version))

    async def attl(self, key: Any, version: int | None = None) -> int | None:
        """Return for how many seconds a key has a value yet, as ``ttl``."""
        return _seconds(await self.apttl(key, version))

    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """Return for how many milliseconds a key has a value yet; 0: it has none; None: for ever."""
        return _left(self.client.run(protocol.ttl(self.client.context, self.key_bytes(key, version))))

    async def apttl(self, key: Any, version: int | None = None) -> int | None:
        """Return for how many milliseconds a key has a value yet, as ``pttl``."""
        return _left(await self.client.arun(protocol.ttl(self.client.context, self.key_bytes(key, version))))

    def persist(self, key: Any, version: int | None = None) -> bool:
        """Have a value stay for ever; return whether there is one."""
        return self.touch(key, None, version)

    async def apersist(self, key: Any, version: int | None = None) -> bool:
        """Have a value stay for ever; return whether there is one."""
        return await self.atouch(key, None, version)

    def expire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Have a value stay for so many seconds, or a timedelta; return whether there is one."""
        return self.touch(key, _in_seconds(timeout), version)

    async def aexpire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Have a value stay for so many seconds, as ``expire``."""
        return await self.atouch(key, _in_seconds(timeout), version)

    def pexpire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Have a value stay for so many milliseconds, or a timedelta; return whether there is one."""
        return self.touch(key, _in_seconds(timeout, 1000), version)

    async def apexpire(self, key: Any, timeout: float | timedelta, version: int | None = None) -> bool:
        """Have a value stay for so many milliseconds, as ``pexpire``."""
        return await self.atouch(key, _in_seconds(timeout, 1000), version)

    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Have a value stay until a time (or seconds since 1970); return whether there is one."""
        return self.touch(key, self._until(when), version)

    async def aexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Have a value stay until a time (or seconds since 1970); return whether there is one."""
        return await self.atouch(key, self._until(when), version)

    def pexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Have a value stay until a time (or milliseconds since 1970); return whether there is one."""
        return self.expire_at(key, when if isinstance(when, datetime) else when / 1000, version)

    async def apexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Have a value stay until a time (or milliseconds since 1970); return whether there is one."""
        return await self.aexpire_at(key, when if isinstance(when, datetime) else when / 1000, version)

    def _until(self, when: datetime | float) -> float:
        moment = when.timestamp() if isinstance(when, datetime) else when
        return moment - self.client.context.clock.now()

    # Keys by pattern

    def iter_keys(
        self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT
    ) -> Iterator[str]:
        """Yield the keys that match a Redis pattern and hold values; what changes meanwhile may be missed.

        Raises:
            RingCacheError: The alias has a ``KEY_FUNCTION``, which cannot be undone.
        """
        opening, made = self._pattern(pattern, version)
        cursors = protocol.all_cursors(self.client.context)
        while cursors:
            found, cursors = self.client.run(protocol.scan(self.client.context, made, cursors, itersize))
            yield from _texts(found, opening)

    async def aiter_keys(
        self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT
    ) -> AsyncIterator[str]:
        """Yield the keys that match a Redis pattern, as ``iter_keys``."""
        opening, made = self._pattern(pattern, version)
        cursors = protocol.all_cursors(self.client.context)
        while cursors:
            page = protocol.scan(self.client.context, made, cursors, itersize)
            found, cursors = await self.client.arun(page)
            for key in _texts(found, opening):
                yield key

    def keys(self, pattern: str = "*", version: int | None = None) -> list[str]:
        """Return the keys that match a Redis pattern, as ``iter_keys``."""
        return list(self.iter_keys(pattern, version))

    async def akeys(self, pattern: str = "*", version: int | None = None) -> list[str]:
        """Return the keys that match a Redis pattern, as ``iter_keys``."""
        return [key async for key in self.aiter_keys(pattern, version)]

    def delete_pattern(self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT) -> int:
        """Delete the keys that match a Redis pattern, leases included; return how many.

        Args:
            pattern: What the keys look like.
            version: Their version.
            itersize: Taken for those who have called django-redis so; a node looks at as many keys
                at a time as it can without keeping others waiting.
        """
        _, made = self._pattern(pattern, version)
        return self.client.run(protocol.clear(self.client.context, made))

    async def adelete_pattern(
        self, pattern: str, version: int | None = None, itersize: int = _ITEM_COUNT
    ) -> int:
        """Delete the keys that match a Redis pattern, as ``delete_pattern``."""
        _, made = self._pattern(pattern, version)
        return await self.client.arun(protocol.clear(self.client.context, made))

    def clear_all(self) -> None:
        """Flush the nodes' databases, whoever wrote what is in them; ``clear`` deletes this alias' keys."""
        self.client.run(protocol.flush(self.client.context))

    async def aclear_all(self) -> None:
        """Flush the nodes' databases, as ``clear_all``."""
        await self.client.arun(protocol.flush(self.client.context))

    def _pattern(self, pattern: str, version: int | None) -> tuple[bytes, bytes]:
        """Return how this version's keys begin, and the Redis pattern of those that are meant."""
        if not self.has_plain_keys:
            message = "keys cannot be found by pattern in an alias with a KEY_FUNCTION of its own"
            raise RingCacheError(message)
        opening = f"{self.key_prefix}:{self.version if version is None else version}:".encode(*ENCODING)
        return opening, self.escaped(opening) + pattern.encode(*ENCODING)

    # redis-py

    def get_client(self, key: Any, version: int | None = None) -> RedisClient:
        """Return a redis-py client of the node that owns a key; close it when it is no longer used."""
        return self._redis(self.key_bytes(key, version))

    def lock(self, key: Any, version: int | None = None, **options: Any) -> RedisLock:
        """Return redis-py's lock of a name, on the node that owns it.

        It is as good as that node: with the node gone it cannot be taken, and a node that
        lost its memory has forgotten who holds it. It has nothing to do with what the cache
        holds under the same key, and ``clear`` leaves it.

        Args:
            key: The lock's name.
            version: The name's version.
            options: What ``redis.Redis.lock`` takes: ``timeout``, ``blocking_timeout``, …
        """
        made = _LOCK + self.key_bytes(key, version)
        found: RedisLock = self._redis(made).lock(made, **options)  # type: ignore[arg-type]  # bytes do, too
        return found

    def _redis(self, made: bytes) -> RedisClient:
        return self.client.nodes[self.client.ring.owner(made)].redis()


def _texts(keys: Iterable[bytes], opening: bytes) -> Iterator[str]:
    """Yield keys as the caller knows them; what is no text, no Django wrote."""
    for key in keys:
        with suppress(UnicodeDecodeError):
            yield key[len(opening) :].decode(*ENCODING)


def _in_seconds(timeout: float | timedelta, parts: int = 1) -> float:
    """Return a timeout in seconds that is given in parts of one, or as a timedelta."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout / parts


def _left(milliseconds: int) -> int | None:
    return None if milliseconds == -1 else max(0, milliseconds)


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else math.ceil(milliseconds / 1000)

"""The methods that load missing values under a lease, and the tags that invalidate loaded values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from cachebackend import protocol
from cachebackend.backend import guarded_loads
from cachebackend.backend.fill_rules import MAY_FILL
from cachebackend.backend.keys import Timeout
from cachebackend.backend.request_leases import LeasingCache
from cachebackend.backend.tag_names import Tag, tags_of
from cachebackend.codec import TAGS_BYTES, tag_bytes_of

__all__ = ["LoaderMethods"]


class LoaderMethods(LeasingCache):
    """Methods that call a loader, and methods that invalidate loaded values."""

    # Loading

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale_for: float | None = None,
        tags: Iterable[Tag] = (),
    ) -> Any:
        """Return the value of a key; on a miss, load it under a lease and store it.

        Args:
            key: The key.
            default: The value, or a callable that loads it. One caller at a time runs the callable.
            timeout: Seconds until the value expires.
            version: The key's version.
            stale_for: Seconds after ``timeout`` in which callers get the old value while one of
                them loads it again. Default: the alias' option.
            tags: Models, rows or strings. Invalidating any of them makes the value a miss. A value
                that was stored without one of them is a miss, too. At most 65,535 bytes of tags fit
                into a record: more than a thousand tags of 40 characters.
        """
        encoded, fill_options = self.key_bytes(key, version), self.fill_options(timeout, stale_for, tags)
        required = self.client.run(self._release([encoded])) if self._leases else ()
        try:
            return guarded_loads.get_or_load(self.client, encoded, _loader(default), fill_options)
        finally:
            if self._leases:
                self._end_leases_of_loader([encoded], required)

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale_for: float | None = None,
        tags: Iterable[Tag] = (),
    ) -> Any:
        """Return the value of a key, as ``get_or_set``; the callable may be a coroutine function."""
        encoded, fill_options = self.key_bytes(key, version), self.fill_options(timeout, stale_for, tags)
        required = await self.client.arun(self._release([encoded])) if self._leases else ()
        try:
            return await guarded_loads.aget_or_load(self.client, encoded, _loader(default), fill_options)
        finally:
            self._end_leases_of_loader([encoded], required)

    def get_or_set_many(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Mapping[Any, Any]],
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale_for: float | None = None,
        tags: Iterable[Tag] = (),
    ) -> dict[Any, Any]:
        """Return the values of many keys; load those that miss in one call, and store them.

        Args:
            keys: The keys.
            loader: Called with the keys to load, once their leases are held. Returns a mapping
                of those keys that have a value to their values.
            timeout: Seconds until the values expire.
            version: The keys' version.
            stale_for: As for ``get_or_set``.
            tags: As for ``get_or_set``; every loaded value gets all of them.
        """
        fill_options = self.fill_options(timeout, stale_for, tags)
        encoded = self._keys(keys, version)
        required = self.client.run(self._release(encoded.values())) if self._leases else ()
        try:
            return guarded_loads.get_or_load_many(self.client, encoded, loader, fill_options)
        finally:
            self._end_leases_of_loader(encoded.values(), required)

    async def aget_or_set_many(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Any],
        timeout: Timeout = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        stale_for: float | None = None,
        tags: Iterable[Tag] = (),
    ) -> dict[Any, Any]:
        """Return the values of many keys, as ``get_or_set_many``; the loader may be a coroutine function."""
        fill_options = self.fill_options(timeout, stale_for, tags)
        encoded = self._keys(keys, version)
        required = await self.client.arun(self._release(encoded.values())) if self._leases else ()
        try:
            return await guarded_loads.aget_or_load_many(self.client, encoded, loader, fill_options)
        finally:
            self._end_leases_of_loader(encoded.values(), required)

    def fill_options(
        self, timeout: Timeout = DEFAULT_TIMEOUT, stale_for: float | None = None, tags: Iterable[Tag] = ()
    ) -> protocol.FillOptions:
        """Return how a loaded value is filled; its timeout is shortened by the alias' ``jitter``.

        Raises:
            TypeError: ``tags`` is a single tag.
            ValueError: The tags do not fit into a record.
        """
        context = self.client.context
        ttl_ms = self.ttl_ms(timeout)
        if ttl_ms is not None and context.options.jitter:
            ttl_ms = math.ceil(ttl_ms * (1 - context.options.jitter * context.clock.random()))
        stale = context.options.stale_for if stale_for is None else stale_for
        stale_ms = math.ceil(stale * 1000)
        tag_keys = () if tags == () else self._tag_keys(tags)
        return protocol.FillOptions(ttl_ms, stale_ms, tag_keys, may_fill=MAY_FILL)

    def _tag_keys(self, tags: Iterable[Tag]) -> tuple[bytes, ...]:
        keys = tuple(dict.fromkeys(map(self.tag_bytes, tags_of(tags))))
        if keys and (size := tag_bytes_of(keys)) > TAGS_BYTES:
            message = (
                f"a value has {len(keys)} tags that take {size} bytes of its record, of which "
                f"{TAGS_BYTES} fit; use fewer or shorter tags, such as the model instead of its rows"
            )
            raise ValueError(message)
        return keys

    # Invalidating

    def invalidate_tags(self, *tags: Tag) -> None:
        """Make every value that was loaded under one of the tags a miss."""
        self._raise_unconfirmed(self.client.run(self._delete_tags(tags)))

    async def ainvalidate_tags(self, *tags: Tag) -> None:
        """Make every value that was loaded under one of the tags a miss."""
        self._raise_unconfirmed(await self.client.arun(self._delete_tags(tags)))

    def _delete_tags(self, tags: Iterable[Tag]) -> protocol.Operation[list[bytes]]:
        return protocol.delete_many(self.client.context, [self.tag_bytes(tag) for tag in tags])

    def make_stale(self, key: Any, stale_for: float, version: int | None = None) -> bool:
        """Invalidate a loaded value, but let calls with ``stale_for`` serve it for some seconds.

        One of those calls loads the value again. For every other call the key is a miss at once.

        Args:
            key: The key.
            stale_for: Seconds in which the old value may be served.
            version: The key's version.

        Returns:
            Whether the key has such a value; any other record of the key is deleted.
        """
        return self.client.run(self._make_stale(key, stale_for, version))

    async def amake_stale(self, key: Any, stale_for: float, version: int | None = None) -> bool:
        """Invalidate a loaded value, as ``make_stale``."""
        return await self.client.arun(self._make_stale(key, stale_for, version))

    def _make_stale(self, key: Any, stale_for: float, version: int | None) -> protocol.Operation[bool]:
        encoded = self.key_bytes(key, version)
        self._end_leases([encoded])
        return protocol.make_stale(self.client.context, encoded, math.ceil(stale_for * 1000))


def _loader(default: Any) -> protocol.Loader:
    return default if callable(default) else lambda: default

"""Django's cache API over the ring: each method names an operation, its async twin the same one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from cachebackend import protocol
from cachebackend.backend.extras import ExtraMethods
from cachebackend.backend.keys import LONGEST_KEY, Tag, Timeout, is_safe
from cachebackend.client import RingClient
from cachebackend.conf import alias_of
from cachebackend.errors import NodeUnavailableError
from cachebackend.options import RingOptions
from cachebackend.registry import ring_client

__all__ = ["RingCache"]

#: Leases that one request may hold at once; the oldest is forgotten, and lapses.
_MOST_MISSED = 10_000
#: Keys whose bytes a cache object remembers; there is one for each thread.
_MOST_MADE = 2_000
#: What a plain key is made of, beside the caller's.
_MAKES_KEYS = frozenset({"key_func", "key_prefix", "version"})


class RingCache(ExtraMethods):
    """A cache spread over the nodes that ``LOCATION`` names.

    Args:
        location: The nodes' URLs.
        params: The alias' block of ``CACHES``.

    Faults of the block are raised by the first use, so that ``manage.py check`` can tell them.
    """

    def __init__(self, location: Any, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._location = location
        self._options: Mapping[str, Any] = params.get("OPTIONS", {})
        #: Keys that were missed in this request, and their leases; None: another had it.
        self._missed: dict[bytes, protocol.Lease] = {}
        #: Keys as the nodes know them, by the caller's.
        self._made: dict[Any, bytes] = {}

    @cached_property
    def client(self) -> RingClient:  # type: ignore[override]  # made with its first use
        """What the alias' threads and tasks share.

        Raises:
            ConfigurationError: The alias' block has faults; every one is named.
        """
        path = f"CACHES[{alias_of(self._location, self._options)!r}]"
        client = ring_client(RingOptions.read(self._location, self._options, path))
        if self._can_clear:
            client.context.patterns.add(self.pattern)
        else:  # a node cannot be cleared of its keys: however many it misses, it is told each
            client.context.missed.limit = math.inf
        return client

    # One key

    def get(self, key: Any, default: Any = None, version: int | None = None, *, near: bool = True) -> Any:
        """Return the value of a key, or the default.

        Args:
            key: The key.
            default: What is returned where there is no value.
            version: The key's version.
            near: Whether a copy in the process will do, where the settings keep any.
        """
        # A hit in the process takes a microsecond, half of which would go into the making of its key
        made = self._made.get(key) if version is None and key.__class__ is str else None
        if made is None:
            made = self._make(key, version)
        if self._leases_on_get:
            return self.client.run(self._get_and_lease(made, default, near=near))
        if not near:
            return self.client.run(protocol.get(self._context(near=False), made, default))
        return self.client.get(made, default)

    def _make(self, key: Any, version: int | None) -> bytes:
        """Return a key's bytes, and remember them where there is a near cache."""
        made = self.key_bytes(key, version)
        is_fixed = version is None and key.__class__ is str and self.has_plain_keys  # no function's say
        if is_fixed and self.client.has_near and len(made) <= LONGEST_KEY and is_safe(made.decode()):
            if len(self._made) >= _MOST_MADE:
                self._made.clear()
            self._made[key] = made
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        """Forget the keys that were made when what they are made of is changed."""
        super().__setattr__(name, value)
        if name in _MAKES_KEYS:
            self._made = {}

    async def aget(
        self, key: Any, default: Any = None, version: int | None = None, *, near: bool = True
    ) -> Any:
        """Return the value of a key, or the default, as ``get``."""
        made = self.key_bytes(key, version)
        if self._leases_on_get:
            return await self.client.arun(self._get_and_lease(made, default, near=near))
        if not near:
            return await self.client.arun(protocol.get(self._context(near=False), made, default))
        return await self.client.aget(made, default)

    def _context(self, *, near: bool) -> protocol.Context:
        context = self.client.context
        return context if near else context.without_near()

    def set(  # type: ignore[override]  # Django's returns nothing
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
            timeout: Seconds that it is kept, or a timedelta.
            version: The key's version.
            nx: Only if there is none; as ``add``.
            xx: Only if there is one.
        """
        if nx or xx:
            return self.client.run(self._set_if(key, value, timeout, version, nx=nx, xx=xx))
        made = self.key_bytes(key, version)
        if made in self._missed:
            return self.client.run(self._set_by_lease(made, value, timeout))
        return self.client.set(made, value, self.ttl_ms(timeout))

    async def aset(  # type: ignore[override]  # Django's returns nothing
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
        made = self.key_bytes(key, version)
        if made in self._missed:
            return await self.client.arun(self._set_by_lease(made, value, timeout))
        return await self.client.aset(made, value, self.ttl_ms(timeout))

    def _set_if(
        self, key: Any, value: Any, timeout: Timeout, version: int | None, *, nx: bool, xx: bool
    ) -> protocol.Operation[bool]:
        if nx and xx:
            message = "set() takes nx or xx, not both"
            raise ValueError(message)
        if nx:
            return self._add(key, value, timeout, version)
        made = self.key_bytes(key, version)
        return protocol.replace(self.client.context, made, value, self.ttl_ms(timeout))

    def _set_by_lease(self, key: bytes, value: Any, timeout: Timeout) -> protocol.Operation[bool]:
        lease = self._missed.pop(key)
        return protocol.set_with_lease(self.client.context, key, value, self.ttl_ms(timeout), lease)

    def _get_and_lease(self, key: bytes, default: Any, *, near: bool) -> protocol.Operation[Any]:
        """Return the value of a key, remembering the lease of a miss until the request ends."""
        value, lease = yield from protocol.get_and_lease(self._context(near=near), key, default)
        if lease is protocol.HIT:
            self._missed.pop(key, None)
        else:
            self._note_missed({key: lease})
        return value

    def _get_many_and_lease(
        self, keys: Mapping[Any, bytes], *, near: bool
    ) -> protocol.Operation[dict[Any, Any]]:
        """Return the values of those keys that have one, remembering the leases of the others."""
        found, leases = yield from protocol.get_many_and_lease(self._context(near=near), keys)
        for name in found:
            self._missed.pop(keys[name], None)
        self._note_missed(leases)
        return found

    def _note_missed(self, leases: Mapping[bytes, protocol.Lease]) -> None:
        for key, lease in leases.items():
            if lease is None and self._missed.get(key) is not None:
                continue  # the lease that stands may be the one that we have
            self._missed[key] = lease
        while len(self._missed) > _MOST_MISSED:
            self._missed.pop(next(iter(self._missed)))

    @cached_property
    def _leases_on_get(self) -> bool:
        return self.client.context.options.lease_on_get

    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Store a value where there is none; return whether there was none."""
        return self.client.run(self._add(key, value, timeout, version))

    async def aadd(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Store a value where there is none; return whether there was none."""
        return await self.client.arun(self._add(key, value, timeout, version))

    def _add(self, key: Any, value: Any, timeout: Timeout, version: int | None) -> protocol.Operation[bool]:
        return protocol.add(self.client.context, self.key_bytes(key, version), value, self.ttl_ms(timeout))

    def touch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value a new timeout; return whether there is one."""
        return self.client.run(self._touch(key, timeout, version))

    async def atouch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a value a new timeout; return whether there is one."""
        return await self.client.arun(self._touch(key, timeout, version))

    def _touch(self, key: Any, timeout: Timeout, version: int | None) -> protocol.Operation[bool]:
        return protocol.touch(self.client.context, self.key_bytes(key, version), self.ttl_ms(timeout))

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key; return whether it held something."""
        return self.client.delete(self.key_bytes(key, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key; return whether it held something."""
        return await self.client.arun(protocol.delete(self.client.context, self.key_bytes(key, version)))

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key has a value."""
        return self.client.run(protocol.has_key(self.client.context, self.key_bytes(key, version)))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key has a value."""
        return await self.client.arun(protocol.has_key(self.client.context, self.key_bytes(key, version)))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer and return the sum.

        Raises:
            ValueError: There is no value.
            TypeError: The value, or the delta, is not an integer.
            OverflowError: The sum, or the delta, is beyond 64 bits.
        """
        return _there(key, self.client.run(self._incr(key, delta, version)))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer and return the sum; raises as ``incr`` does."""
        return _there(key, await self.client.arun(self._incr(key, delta, version)))

    def _incr(self, key: Any, delta: int, version: int | None) -> protocol.Operation[int | None]:
        return protocol.incr(self.client.context, self.key_bytes(key, version), delta)

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from an integer and return the difference; raises as ``incr`` does."""
        return await self.aincr(key, -delta, version)

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
        """Return the value of a key; if there is none, load it under a lease and keep it.

        Args:
            key: The key.
            default: The value, or a callable that loads it; called by one caller at a time.
            timeout: Seconds that the value is kept.
            version: The key's version.
            stale_for: Seconds after that in which it is served while one caller loads it
                again; the alias' own by default.
            tags: Models, rows or strings; to invalidate one makes the value a miss.
        """
        keep = self.keep(timeout, stale_for, tags)
        return self.client.get_or_load(self.key_bytes(key, version), _loader(default), keep)

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
        made, keep = self.key_bytes(key, version), self.keep(timeout, stale_for, tags)
        return await self.client.arun(protocol.get_or_load(self.client.context, made, _loader(default), keep))

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
        """Return the values of many keys; those that have none are loaded in one call, and kept.

        Args:
            keys: The keys.
            loader: Called with the keys to load, after their leases are held; returns the
                values that there are, by key.
            timeout: Seconds that the values are kept.
            version: The keys' version.
            stale_for: As for ``get_or_set``.
            tags: As for ``get_or_set``; of all the values alike.
        """
        keep = self.keep(timeout, stale_for, tags)
        return self.client.run(self._get_or_set_many(keys, loader, version, keep))

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
        keep = self.keep(timeout, stale_for, tags)
        return await self.client.arun(self._get_or_set_many(keys, loader, version, keep))

    def _get_or_set_many(
        self,
        keys: Iterable[Any],
        loader: Callable[[list[Any]], Any],
        version: int | None,
        keep: protocol.FillOptions,
    ) -> protocol.Operation[dict[Any, Any]]:
        return protocol.get_or_load_many(self.client.context, self._keys(keys, version), loader, keep)

    def keep(
        self, timeout: Timeout = DEFAULT_TIMEOUT, stale_for: float | None = None, tags: Iterable[Tag] = ()
    ) -> protocol.FillOptions:
        """Return how a loaded value is kept, its timeout jittered as the options say."""
        context = self.client.context
        ttl_ms = self.ttl_ms(timeout)
        if ttl_ms is not None and context.options.jitter:
            ttl_ms = math.ceil(ttl_ms * (1 - context.options.jitter * context.clock.random()))
        stale = context.options.stale_for if stale_for is None else stale_for
        return protocol.FillOptions(ttl_ms, math.ceil(stale * 1000), tuple(map(self.tag_bytes, tags)))

    # Tags

    def invalidate_tags(self, *tags: Tag) -> None:
        """Make every value that was loaded under one of the tags a miss."""
        self._confirmed(self.client.run(self._delete_many(self.tag_bytes(tag) for tag in tags)))

    async def ainvalidate_tags(self, *tags: Tag) -> None:
        """Make every value that was loaded under one of the tags a miss."""
        self._confirmed(await self.client.arun(self._delete_many(self.tag_bytes(tag) for tag in tags)))

    def make_stale(self, key: Any, stale_for: float, version: int | None = None) -> bool:
        """Invalidate a loaded value, but let it be served for so long by calls with ``stale_for``.

        One of them loads it again; to everybody else it is a miss at once. Returns whether
        there is such a value; anything else that stands is deleted.
        """
        return self.client.run(self._make_stale(key, stale_for, version))

    async def amake_stale(self, key: Any, stale_for: float, version: int | None = None) -> bool:
        """Invalidate a loaded value softly, as ``make_stale``."""
        return await self.client.arun(self._make_stale(key, stale_for, version))

    def _make_stale(self, key: Any, stale_for: float, version: int | None) -> protocol.Operation[bool]:
        return protocol.make_stale(
            self.client.context, self.key_bytes(key, version), math.ceil(stale_for * 1000)
        )

    # Many keys

    def get_many(
        self, keys: Iterable[Any], version: int | None = None, *, near: bool = True
    ) -> dict[Any, Any]:
        """Return the values of those keys that have one, in one round trip; ``near`` as for ``get``."""
        return self.client.run(self._get_many(keys, version, near=near))

    async def aget_many(
        self, keys: Iterable[Any], version: int | None = None, *, near: bool = True
    ) -> dict[Any, Any]:
        """Return the values of those keys that have one, in one round trip; ``near`` as for ``get``."""
        return await self.client.arun(self._get_many(keys, version, near=near))

    def _get_many(
        self, keys: Iterable[Any], version: int | None, *, near: bool
    ) -> protocol.Operation[dict[Any, Any]]:
        made = self._keys(keys, version)
        if self._leases_on_get:
            return self._get_many_and_lease(made, near=near)
        return protocol.get_many(self._context(near=near), made)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store many values in one round trip; return the keys that no node confirmed."""
        return self.client.run(self._set_many(data, timeout, version))

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Store many values in one round trip; return the keys that no node confirmed."""
        return await self.client.arun(self._set_many(data, timeout, version))

    def _set_many(
        self, data: Mapping[Any, Any], timeout: Timeout, version: int | None
    ) -> protocol.Operation[list[Any]]:
        context, keys, ttl_ms = self.client.context, self._keys(data, version), self.ttl_ms(timeout)
        missed = {name: key for name, key in keys.items() if key in self._missed} if self._missed else {}
        if not missed:
            return (yield from protocol.set_many(context, keys, data, ttl_ms))
        leases = {key: self._missed.pop(key) for key in missed.values()}
        left = yield from protocol.set_many_with_lease(context, missed, data, ttl_ms, leases)
        others = {name: key for name, key in keys.items() if name not in missed}
        return left + (yield from protocol.set_many(context, others, data, ttl_ms)) if others else left

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete many keys in one round trip."""
        self._confirmed(self.client.run(self._delete_many(self._keys(keys, version).values())))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete many keys in one round trip."""
        self._confirmed(await self.client.arun(self._delete_many(self._keys(keys, version).values())))

    def _delete_many(self, keys: Iterable[bytes]) -> protocol.Operation[list[bytes]]:
        return protocol.delete_many(self.client.context, list(keys))

    def _confirmed(self, left: list[bytes]) -> None:
        """Complain of keys that no node confirmed, if the settings say so."""
        if left and self.client.context.options.on_node_failure == "raise":
            message = f"{len(left)} keys could not be deleted: their node did not answer"
            raise NodeUnavailableError(message)

    def clear(self) -> None:
        """Delete every key of this alias' prefix, in all versions, on all nodes.

        Raises:
            RingCacheError: The alias' ``KEY_FUNCTION`` hides the key, so its keys cannot
                be told from others.
        """
        self.client.run(protocol.clear(self.client.context, self.pattern))

    async def aclear(self) -> None:
        """Delete every key of this alias' prefix, as ``clear``."""
        await self.client.arun(protocol.clear(self.client.context, self.pattern))

    # Versions

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to another version of its key and return that version.

        Raises:
            ValueError: There is no value.
        """
        version = self.version if version is None else version
        value = await self.aget(key, self._missing_key, version=version)
        if value is self._missing_key:
            raise ValueError(_missing_text(key))
        await self.aset(key, value, version=version + delta)
        await self.adelete(key, version=version)
        return version + delta

    def close(self, **kwargs: Any) -> None:
        """Give back what the request leased and did not fill, at its end; connections stay."""
        if self._missed:
            leases, self._missed = self._missed, {}
            self.client.run(protocol.release(self.client.context, leases))


def _loader(default: Any) -> protocol.Loader:
    return default if callable(default) else lambda: default


def _there(key: Any, total: int | None) -> int:
    if total is None:
        raise ValueError(_missing_text(key))
    return total


def _missing_text(key: Any) -> str:
    return f"Key '{key}' not found"

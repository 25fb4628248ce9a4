"""``@cached``: a function whose results are kept on the ring, loaded by one caller at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db import models
from xxhash import xxh3_128_hexdigest

from cachebackend import protocol
from cachebackend.backend import RingCache, Tag, Timeout, ring_cache
from cachebackend.codec import EncodeError, pack_plain

__all__ = ["CachedFunction", "cached"]

P = ParamSpec("P")
R = TypeVar("R")
Tags = Iterable[Tag] | Callable[..., Iterable[Tag]]


def cached(
    timeout: Timeout = DEFAULT_TIMEOUT,
    *,
    tags: Tags = (),
    stale_for: float | None = None,
    key: Callable[..., str] | None = None,
    alias: str = "default",
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
    """Keep a function's results, by its arguments; for functions and coroutine functions.

    Args:
        timeout: Seconds that a result is kept; the alias' own by default.
        tags: Models, rows or strings, or a function of the arguments that returns them;
            to invalidate one makes the results under it misses.
        stale_for: Seconds after that in which a result is served while one caller computes
            it again; the alias' own by default.
        key: Returns the part of the key that tells calls apart; needed where an argument is
            neither plain data nor a row.
        alias: The cache alias, a ring cache.

    ``f.invalidate(*args)`` drops a result, ``f.refresh(*args)`` computes it anew; for a
    coroutine function both are awaited. An exception is never kept; None is a result.
    """

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        kind = _CachedCoroutine if inspect.iscoroutinefunction(function) else CachedFunction
        return kind(function, timeout=timeout, tags=tags, stale_for=stale_for, key=key, alias=alias)

    return decorate


class CachedFunction(Generic[P, R]):
    """A function whose results are kept; made by ``cached``."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        timeout: Timeout,
        tags: Tags,
        stale_for: float | None,
        key: Callable[..., str] | None,
        alias: str,
    ) -> None:
        self._function = function
        self._signature = inspect.signature(function)
        self._timeout, self._tags, self._stale_for = timeout, tags, stale_for
        self._key, self._alias = key, alias
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result, computed now if there is none."""
        result: R = self._cache.client.get_or_load(*self._asked(*args, **kwargs))
        return result

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the result anew, keep it, and return it."""
        client = self._cache.client
        result: R = client.run(protocol.load_again(client.context, *self._asked(*args, **kwargs)))
        return result

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Drop the result; a computation of it that is under way will not be kept."""
        return self._cache.delete(self.key_of(*args, **kwargs))

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the cache key of a call, the same in every process.

        Raises:
            TypeError: An argument is neither plain data nor a row, and no ``key`` was given.
        """
        name = f"call:{self._function.__module__}.{self._function.__qualname__}"
        if self._key is not None:
            return f"{name}:{self._key(*args, **kwargs)}"
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            packed = pack_plain([(each, _plain(value)) for each, value in bound.arguments.items()])
        except EncodeError as error:
            message = (
                f"{self._function.__qualname__}() has an argument that makes no key; give @cached(key=…)"
            )
            raise TypeError(message) from error
        return f"{name}:{xxh3_128_hexdigest(packed)}"

    def _asked(self, *args: Any, **kwargs: Any) -> tuple[bytes, protocol.Loader, protocol.FillOptions]:
        """Return the key of a call, what computes its result, and how that is kept."""
        cache = self._cache
        tags = self._tags(*args, **kwargs) if callable(self._tags) else self._tags
        key = cache.key_bytes(self.key_of(*args, **kwargs))
        fill_options = cache.fill_options(self._timeout, self._stale_for, tags)
        return key, partial(self._function, *args, **kwargs), fill_options

    @property
    def _cache(self) -> RingCache:
        return ring_cache(self._alias, "@cached")

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Be a method of the class that the function was defined in."""
        return self if instance is None else _Bound(self, instance)


class _CachedCoroutine(CachedFunction[P, R]):
    """The same of a coroutine function: every call is awaited."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]  # is awaited
        client = self._cache.client
        return await client.arun(protocol.get_or_load(client.context, *self._asked(*args, **kwargs)))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]  # is awaited
        client = self._cache.client
        return await client.arun(protocol.load_again(client.context, *self._asked(*args, **kwargs)))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await self._cache.adelete(self.key_of(*args, **kwargs))


class _Bound:
    """A cached function with its first argument."""

    def __init__(self, function: CachedFunction[Any, Any], instance: Any) -> None:
        self._function = function
        self.refresh = partial(function.refresh, instance)
        self.invalidate = partial(function.invalidate, instance)
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance, *args, **kwargs)


def _plain(value: Any) -> Any:
    """Return what stands for an argument in a key: for a row its model and primary key."""
    if isinstance(value, models.Model):
        return ["row", value._meta.label_lower, value.pk]
    if isinstance(value, set | frozenset):
        return ["set", sorted(map(repr, value))]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(_plain, value)]
    if isinstance(value, dict):
        return ["dict", *sorted((repr(name), _plain(each)) for name, each in value.items())]
    return value

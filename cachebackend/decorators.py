"""``@cached``: caches the results of a function on the ring; one caller at a time computes a result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from cachebackend import protocol
from cachebackend.backend import RingCache, Tag, Timeout, find_ring_cache
from cachebackend.backend.call_names import (
    arguments_digest,
    call_scope,
    captures_digest,
    function_name,
    has_captures,
)
from cachebackend.backend.fill_rules import databases_with_changes
from cachebackend.backend.guarded_loads import aget_or_load, aload_again, get_or_load, load_again
from cachebackend.backend.open_transactions import any_changed
from cachebackend.backend.scope import is_asked_in_thread
from cachebackend.backend.tag_names import tags_of
from cachebackend.codec import EncodeError
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.transactions import invalidate_together
from cachebackend.properties import cached_property

__all__ = ["CachedFunction", "aliases_of_functions", "cached"]

P = ParamSpec("P")
R = TypeVar("R")
Tags = Iterable[Tag] | Callable[..., Iterable[Tag]]
#: The cache aliases of all cached functions of this process.
_aliases: set[str] = set()


def cached(
    timeout: Timeout = DEFAULT_TIMEOUT,
    *,
    tags: Tags = (),
    stale_for: float | None = None,
    key: Callable[..., str] | None = None,
    alias: str = "default",
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
    """Cache the results of a function or coroutine function, by its arguments.

    Args:
        timeout: Seconds until a result expires. Default: the timeout of the alias.
        tags: Models, rows or strings, or a function that returns them for the call's arguments.
            Invalidating any of them makes the results with this tag misses.
        stale_for: Seconds after ``timeout`` in which the old result is served while one caller
            computes it again. Default: the alias' option.
        key: Returns a text that distinguishes calls, given their arguments. Required if an
            argument is neither plain data nor a row.
        alias: The cache alias. If it has another backend, as in development, results are not cached.

    Raises:
        TypeError: ``tags`` is a single tag, or the function is not one whose results can be cached.

    ``f.invalidate(*args)`` deletes a result, again after the commit of an open transaction, and
    ``f.refresh(*args)`` computes it again; for a coroutine function both are awaited. An exception
    is never cached; None is a result.
    """
    tags_of_call = _tags_function(tags)

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        _refuse_uncacheable(function)
        kind = _CachedCoroutine if inspect.iscoroutinefunction(function) else CachedFunction
        return kind(function, timeout=timeout, tags=tags_of_call, stale_for=stale_for, key=key, alias=alias)

    return decorate


class CachedFunction(Generic[P, R]):
    """A function whose results are cached; ``cached`` creates it."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        timeout: Timeout,
        tags: Callable[..., Iterable[Tag]],
        stale_for: float | None,
        key: Callable[..., str] | None,
        alias: str,
    ) -> None:
        self._function = function
        self._signature = inspect.signature(function)
        self._timeout, self._tags, self._stale_for = timeout, tags, stale_for
        self._key, self._alias = key, alias
        self._captures = function if has_captures(function) else None
        _aliases.add(alias)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or compute and cache it."""
        cache = find_ring_cache(self._alias)
        if cache is None:
            return self._function(*args, **kwargs)
        result: R = get_or_load(cache.client, *self._load_arguments(cache, *args, **kwargs))
        return result

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the result again, cache it, and return it.

        From a transaction that has changed rows the result is not cached; after the commit it is a miss.
        """
        cache = find_ring_cache(self._alias)
        if cache is None:
            return self._function(*args, **kwargs)
        key, loader, fill_options = self._load_arguments(cache, *args, **kwargs)
        result: R = load_again(cache.client, key, loader, fill_options)
        self._delete_after_commits(key)
        return result

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Delete the cached result; the result of a computation that is running is not cached."""
        cache = find_ring_cache(self._alias)
        if cache is None:
            return False
        key = self.key_of(*args, **kwargs)
        was_deleted = cache.delete(key)
        self._delete_after_commits(cache.key_bytes(key))
        return was_deleted

    @cached_property
    def _name(self) -> str:
        """The function's name, asked for when the function is called: its module has it by then."""
        return function_name(self._function)

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the cache key of a call; it is the same in every process.

        It names the function, its arguments by type and value, the database of each row among
        them, the default database, and the namespace.

        Raises:
            TypeError: An argument, or a value that a closure holds, is neither plain data nor a
                saved row, and the decorator has no ``key``.
        """
        prefix = f"call:{call_scope()}:{self._name}"
        if self._key is not None:
            return f"{prefix}:{self._bound}{self._key(*args, **kwargs)}"
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return f"{prefix}:{arguments_digest(bound.arguments, self._captures)}"
        except EncodeError as error:
            raise_interrupt(error)
            message = (
                f"{self._name}() has an argument that cannot be part of a key; give @cached(key=…): {error}"
            )
            raise TypeError(message) from error

    @cached_property
    def _bound(self) -> str:
        """What distinguishes two functions of one name, if ``key`` names the arguments.

        Raises:
            TypeError: Nothing distinguishes the function from others.
        """
        try:
            digest = captures_digest(self._function)
        except EncodeError as error:
            raise_interrupt(error)
            message = (
                f"nothing distinguishes {self._name} from others of its class; decorate a function: {error}"
            )
            raise TypeError(message) from error
        return f"{digest}:" if digest else ""

    def _load_arguments(
        self, cache: RingCache, *args: Any, **kwargs: Any
    ) -> tuple[bytes, protocol.Loader, protocol.FillOptions]:
        """Return the key of a call, the loader that computes its result, and how the result is filled."""
        tags = self._tags(*args, **kwargs)
        key = cache.key_bytes(self.key_of(*args, **kwargs))
        fill_options = cache.fill_options(self._timeout, self._stale_for, tags)
        return key, partial(self._function, *args, **kwargs), fill_options

    def _delete_after_commits(self, key: bytes) -> None:
        """Delete a key again after the commit of each open transaction that has changed what is cached.

        A reader that misses before the commit may fill the old result.
        """
        for using in databases_with_changes():
            deletes = PendingDeletes(using)
            deletes.add_keys({self._alias: [key]})
            invalidate_together(deletes)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind the function to an instance, if it is defined in a class."""
        return self if instance is None else _BoundFunction(self, instance)


class _CachedCoroutine(CachedFunction[P, R]):
    """A coroutine function whose results are cached; ``refresh`` and ``invalidate`` are awaited too."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]  # is awaited
        cache = find_ring_cache(self._alias)
        if cache is None:
            return await self._function(*args, **kwargs)  # type: ignore[misc]  # it is a coroutine function
        arguments = await _in_thread(self._load_arguments, cache, *args, **kwargs)
        return await aget_or_load(cache.client, *arguments)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]  # is awaited
        cache = find_ring_cache(self._alias)
        if cache is None:
            return await self._function(*args, **kwargs)  # type: ignore[misc]  # it is a coroutine function
        key, loader, fill_options = await _in_thread(self._load_arguments, cache, *args, **kwargs)
        result = await aload_again(cache.client, key, loader, fill_options)
        if any_changed():
            await sync_to_async(self._delete_after_commits)(key)
        return result

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        cache = find_ring_cache(self._alias)
        if cache is None:
            return False
        key = await _in_thread(self.key_of, *args, **kwargs)
        was_deleted = await cache.adelete(key)
        if any_changed():
            await sync_to_async(self._delete_after_commits)(cache.key_bytes(key))
        return was_deleted


def _tags_function(tags: Tags) -> Callable[..., Iterable[Tag]]:
    """Return the function that returns the tags of a call; a model class is a tag, too."""
    if callable(tags) and not isinstance(tags, type):
        return tags
    frozen = tags_of(tags)  # type: ignore[arg-type]  # it refuses a class
    return lambda *_, **__: frozen


def _refuse_uncacheable(function: Any) -> None:
    if isinstance(function, classmethod | staticmethod):
        message = f"put @{type(function).__name__} above @cached, not below it"
    elif inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = f"{function.__qualname__} is a generator, which can be read once; return a list"
    else:
        return
    raise TypeError(message)


async def _in_thread(make: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call a function that asks for the scope, in the thread in which queries run."""
    if not is_asked_in_thread():
        return make(*args, **kwargs)
    return await sync_to_async(make)(*args, **kwargs)


class _BoundFunction:
    """A cached function bound to an instance: the instance is its first argument."""

    def __init__(self, function: CachedFunction[Any, Any], instance: Any) -> None:
        self._function = function
        self.refresh = partial(function.refresh, instance)
        self.invalidate = partial(function.invalidate, instance)
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance, *args, **kwargs)


def aliases_of_functions() -> list[str]:
    """Return the cache aliases of the functions that are cached, sorted."""
    return sorted(_aliases)

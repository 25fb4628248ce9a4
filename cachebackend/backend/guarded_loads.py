"""Reads whose loaders may read anything: ``get_or_set``, ``@cached`` and their relatives.

A transaction that has changed what is cached does not acquire or wait for a lease, because it may
store nothing. What it has invalidated itself it does not read from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from cachebackend import protocol
from cachebackend.backend.fill_rules import Changes, ask_changes, async_guard, guard
from cachebackend.backend.open_transactions import any_changed
from cachebackend.client import RingClient
from cachebackend.protocol import FillOptions, Loader, ManyLoader, Operation

__all__ = [
    "aget_or_load",
    "aget_or_load_many",
    "aload_again",
    "get_or_load",
    "get_or_load_many",
    "load_again",
]

K = TypeVar("K")


def get_or_load(client: RingClient, key: bytes, loader: Loader, fill_options: FillOptions) -> Any:
    """Return the value of a key; on a miss, load it, and store it if the rules allow it."""
    guarded = guard(loader)
    if any_changed():
        return client.run(_get_or_load(client, key, loader, guarded, fill_options))
    return client.get_or_load(key, guarded, fill_options)


async def aget_or_load(client: RingClient, key: bytes, loader: Loader, fill_options: FillOptions) -> Any:
    """Return the value of a key, as ``get_or_load``; the loader may return an awaitable."""
    return await client.arun(_get_or_load(client, key, loader, async_guard(loader), fill_options))


def _get_or_load(
    client: RingClient, key: bytes, loader: Loader, guarded: Loader, fill_options: FillOptions
) -> Operation[Any]:
    context = client.context
    changes = yield from ask_changes((key, *fill_options.tags))
    if changes is Changes.NOTHING:
        return (yield from protocol.get_or_load(context, key, guarded, fill_options))
    may_read = changes is not Changes.THESE_KEYS
    value = (yield from protocol.get(context, key, protocol.MISSING)) if may_read else protocol.MISSING
    return value if value is not protocol.MISSING else (yield protocol.Load(loader))


def get_or_load_many(
    client: RingClient, keys: Mapping[K, bytes], loader: ManyLoader[K], fill_options: FillOptions
) -> dict[K, Any]:
    """Return the values of many keys by name; load and store those that miss, as ``get_or_load``."""
    return client.run(_get_or_load_many(client, keys, loader, guard(loader), fill_options))


async def aget_or_load_many(
    client: RingClient, keys: Mapping[K, bytes], loader: ManyLoader[K], fill_options: FillOptions
) -> dict[K, Any]:
    """Return the values of many keys, as ``get_or_load_many``; the loader may return an awaitable."""
    return await client.arun(_get_or_load_many(client, keys, loader, async_guard(loader), fill_options))


def _get_or_load_many(
    client: RingClient,
    keys: Mapping[K, bytes],
    loader: ManyLoader[K],
    guarded: ManyLoader[K],
    fill_options: FillOptions,
) -> Operation[dict[K, Any]]:
    context = client.context
    changes = yield from ask_changes([*keys.values(), *fill_options.tags])
    if changes is Changes.NOTHING:
        return (yield from protocol.get_or_load_many(context, keys, guarded, fill_options))
    values = (yield from protocol.get_many(context, keys)) if changes is not Changes.THESE_KEYS else {}
    if missing := [name for name in keys if name not in values]:
        values |= yield protocol.Load(partial(loader, missing))
    return {name: values[name] for name in keys if name in values}


def load_again(client: RingClient, key: bytes, loader: Loader, fill_options: FillOptions) -> Any:
    """Delete a key, load it, store the value if the rules allow it, and return it."""
    return client.run(protocol.load_again(client.context, key, guard(loader), fill_options))


async def aload_again(client: RingClient, key: bytes, loader: Loader, fill_options: FillOptions) -> Any:
    """Load a key again, as ``load_again``; the loader may return an awaitable."""
    return await client.arun(protocol.load_again(client.context, key, async_guard(loader), fill_options))

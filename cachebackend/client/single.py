"""Operations of one key that most often are one command and one reply: done without a generator.

Each does what its namesake in ``protocol`` does, and leaves to that whatever is not the usual:
another ring, a gutter, a record that says more than its value, a node that fails. A generator,
and the effects that it yields, would cost as much again as the reply.
"""

from __future__ import annotations

from typing import Any

from cachebackend.client.base import Client
from cachebackend.counters import Counters, Counts
from cachebackend.drivers import DeferredCalls, load
from cachebackend.effects import Reply, is_unknown_script
from cachebackend.errors import NodeUnavailableError
from cachebackend.near.cache import MISS, NearCache
from cachebackend.protocol import (
    Context,
    FillOptions,
    delete,
    get,
    get_or_load,
    has_tag_tokens,
    set_,
    value_of,
)
from cachebackend.protocol.cache.compare_and_set import CompareAndSet, set_if_absent_command
from cachebackend.protocol.cache.fill import LeaseRequest, Loader, count_load, put, record_of, release
from cachebackend.protocol.cache.get import NOT_PLAIN, plain_value
from cachebackend.protocol.cache.set import set_command, was_deleted, was_stored
from cachebackend.protocol.ring.deletes import delete_command
from cachebackend.ring import Ring

__all__ = ["SingleKeyClient"]


class SingleKeyClient(Client):
    """What a cache alias does with one key at a time."""

    ring: Ring
    context: Context
    counters: Counters[Counts]
    _near: NearCache | None

    def _looks_elsewhere(self, node: int, reply: Reply) -> bool:
        """Return whether a key may be at the ring that was left, or in the gutter."""
        if reply is None:
            return self.context.ring_change is not None
        if self.context.gutter is None or reply.__class__ is not NodeUnavailableError:
            return False
        return self.nodes[node].is_ejected

    def _copy(self, near: NearCache, key: bytes) -> Any:
        """Return the copy in the process, and count a hit; MISS if there is none."""
        copy = near.get(key, self.context.codec.decode)
        if copy is not MISS:
            cell = self.counters.cell
            cell.hits += 1
            cell.near_hits += 1
        return copy

    def get(self, key: bytes, missing: Any = None) -> Any:
        """Return the value of a key: ``protocol.get`` without its generator, for it has no protocol."""
        if self._near is not None:
            copy = self._copy(self._near, key)
            return self.run(get(self.context, key, missing)) if copy is MISS else copy
        begun = self.counters.begin_get()
        node = self.ring.owner(key)
        reply = self.nodes[node].call((b"GET", key))
        self.counters.end_get(begun)
        value = plain_value(self.context, reply)
        if value is not NOT_PLAIN:
            return value
        if has_tag_tokens(reply) or self._looks_elsewhere(node, reply):
            return self.run(get(self.context, key, missing))
        return value_of(self.context, reply, missing)

    async def aget(self, key: bytes, missing: Any = None) -> Any:
        """Return the value of a key, in the running event loop."""
        if self._near is not None:
            copy = self._copy(self._near, key)
            return await self.arun(get(self.context, key, missing)) if copy is MISS else copy
        begun = self.counters.begin_get()
        node = self.ring.owner(key)
        [reply] = await self.nodes[node].submit([(b"GET", key)])
        self.counters.end_get(begun)
        value = plain_value(self.context, reply)
        if value is not NOT_PLAIN:
            return value
        if has_tag_tokens(reply) or self._looks_elsewhere(node, reply):
            return await self.arun(get(self.context, key, missing))
        return value_of(self.context, reply, missing)

    def set(self, key: bytes, value: Any, ttl_ms: int | None) -> bool:
        """Store a value: ``protocol.set_`` without its generator where one answer is all of it."""
        if not self._is_alone or (ttl_ms is not None and ttl_ms <= 0):
            return self.run(set_(self.context, key, value, ttl_ms))
        record = self.context.codec.encode(value)
        node = self.ring.owner(key)
        self.context.drop_near((key,))
        reply = self.nodes[node].call(set_command(key, record, ttl_ms))
        self.context.drop_near((key,))
        return reply.__class__ is bytes or was_stored(self.context, node, key, reply)

    async def aset(self, key: bytes, value: Any, ttl_ms: int | None) -> bool:
        """Store a value, in the running event loop."""
        if not self._is_alone or (ttl_ms is not None and ttl_ms <= 0):
            return await self.arun(set_(self.context, key, value, ttl_ms))
        record = self.context.codec.encode(value)
        node = self.ring.owner(key)
        self.context.drop_near((key,))
        [reply] = await self.nodes[node].submit([set_command(key, record, ttl_ms)])
        self.context.drop_near((key,))
        if reply.__class__ is bytes:
            return True
        with DeferredCalls() as deferred:
            try:
                return was_stored(self.context, node, key, reply)
            finally:
                await deferred.make_calls()

    def delete(self, key: bytes) -> bool:
        """Delete whatever a key holds; return whether it held something."""
        context = self.context
        if not self._is_alone:
            return self.run(delete(context, key))
        node = self.ring.owner(key)
        context.drop_near((key,))
        reply = self.nodes[node].call(delete_command((key,)))
        context.drop_near((key,))
        if reply.__class__ is int:
            return bool(reply)
        if is_unknown_script(reply):
            return self.run(delete(context, key))
        return was_deleted(context, node, key, reply)

    def get_or_load(self, key: bytes, loader: Loader, fill_options: FillOptions) -> Any:
        """Return the value of a key; load and fill it if there is none, or it is due."""
        context = self.context
        if self._near is not None or fill_options.tags or not self._is_alone:
            return self.run(get_or_load(context, key, loader, fill_options))
        want = LeaseRequest(self.ring.owner(key), key, context.clock.token())
        begun = self.counters.begin_get()
        reply = self.nodes[want.node].call(set_if_absent_command(key, want.record, context.lease_ms))
        self.counters.end_get(begun)
        if reply is None:
            return self._load_and_fill(want, loader, fill_options)
        value = plain_value(context, reply)
        if value is not NOT_PLAIN:
            return value
        return self.run(get_or_load(context, key, loader, fill_options, asked=(want, reply)))

    def _load_and_fill(self, want: LeaseRequest, loader: Loader, fill_options: FillOptions) -> Any:
        """Load under a lease that was granted, and fill it."""
        context, cell = self.context, self.counters.cell
        cell.misses += 1
        cell.leases_granted += 1
        begun = context.clock.monotonic()
        try:
            try:
                value = load(loader)
            finally:
                took = count_load(context, begun)
            kept = record_of(context, value, fill_options, {}, took)
        except BaseException:
            self.run(release(context, [want]))
            raise
        if kept is None:
            self.run(release(context, [want]))
            return value
        swap = CompareAndSet(want.node, want.key, want.record, *kept)
        if not swap.is_native(context):
            self.run(put(context, [swap]))
            return value
        node, command = swap.request(context)
        reply = self.nodes[node].call(command)
        if reply.__class__ is not bytes:
            self.run(put(context, [swap], [reply]))
        return value

    @property
    def _is_alone(self) -> bool:
        """True if a key is written at its owner and nowhere else."""
        return self.context.ring_change is None and self.context.gutter is None

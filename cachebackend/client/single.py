"""Operations of one key that mostly take one command and one reply, without a generator.

Each method calls the same ``begin`` and ``settle`` functions as the generator of the same name in
``protocol``, and runs a generator only for the rest: a ``Continue``, a key that several nodes may
hold, a near cache that must announce a read. A generator and its effects would cost as much again
as the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachebackend.client.base import Client
from cachebackend.drivers import DeferredCalls, FailedNodes, load, note_failure
from cachebackend.effects import Continue, Reply, Request, ScriptCall, is_unknown_script
from cachebackend.errors import NodeReplyError
from cachebackend.near.cache import MISS, NearCache
from cachebackend.node import Node
from cachebackend.protocol import Context, FillOptions, delete, get, get_or_load, set_
from cachebackend.protocol.cache.fill import Loader, Unfilled, begin_fill, count_load, settle_fill
from cachebackend.protocol.cache.freshness import NOT_PLAIN, fresh_value
from cachebackend.protocol.cache.get import begin_get, settle_get
from cachebackend.protocol.cache.lease import LeaseRequest, begin_lease, give_up, release
from cachebackend.protocol.cache.load import GRANTED, settle_load
from cachebackend.protocol.cache.set import begin_set, settle_set
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.ring.deletes import begin_delete, settle_delete
from cachebackend.protocol.ring.write import settle_write

__all__ = ["SingleKeyClient"]

#: The most keys of which a process knows that they had a value.
MAX_HITS = 10_000
#: The most bytes of such a key.
_MAX_KEY_BYTES = 500


class SingleKeyClient(Client):
    """What a cache alias does with one key at a time."""

    context: Context
    nodes: Sequence[Node]
    _near: NearCache | None
    #: Keys that had a value when a lease was last asked for.
    _hits: set[bytes]

    def get(self, key: bytes, missing: Any = None) -> Any:
        """Return the value of a key, or ``missing``."""
        context, near = self.context, self._near
        if near is not None:
            copy = self._near_copy(near, key)
            return self.run(get(context, key, missing)) if copy is MISS else copy
        if key in context.known_tags:
            return self.run(get(context, key, missing))
        node, command = request = begin_get(context, key)
        begun = context.counters.begin_get()
        reply = self.nodes[node].call(command)
        if begun is not None:
            context.end_get(begun, key, reply)
        value = settle_get(context, key, request, reply, missing)
        return value if value.__class__ is not Continue else self.run(value.operation)

    async def aget(self, key: bytes, missing: Any = None) -> Any:
        """Return the value of a key, or ``missing``, in the running event loop."""
        context = self.context
        if self._near is not None:
            copy = self._near_copy(self._near, key)
            return await self.arun(get(context, key, missing)) if copy is MISS else copy
        if key in context.known_tags:
            return await self.arun(get(context, key, missing))
        node, command = request = begin_get(context, key)
        begun = context.counters.begin_get()
        [reply] = await self.nodes[node].submit([command])
        if begun is not None:
            context.end_get(begun, key, reply)
        value = settle_get(context, key, request, reply, missing)
        return value if value.__class__ is not Continue else await self.arun(value.operation)

    def _near_copy(self, near: NearCache, key: bytes) -> Any:
        """Return the copy in this process, and count a hit; MISS if there is none."""
        context = self.context
        copy = near.get(key, context.codec.decode)
        if copy is not MISS:
            cell = context.counters.cell
            cell.hits += 1
            cell.near_hits += 1
        return copy

    def get_fresh(self, context: Context, key: bytes, failed: FailedNodes, missing: Any) -> Any:
        """Return the value of a key that every reader may be served now, and count a hit.

        Args:
            context: The context of the key.
            key: The key.
            failed: The nodes that did not answer the caller, who passes them on to ``run``.
            missing: Returned if ``get_or_load`` must find out; nothing was counted then.
        """
        if context.near is not None:
            copy = self._near_copy(context.near, key)
            return missing if copy is MISS else copy
        node, command = begin_get(context, key)
        if node in failed:
            return missing
        begun = context.counters.begin_get()
        reply = self.nodes[node].call(command)
        if begun is not None:
            context.end_get(begun, key, reply)
        note_failure(node, reply, failed)
        value = fresh_value(context, reply)
        return missing if value is NOT_PLAIN else value

    def set(self, key: bytes, value: Any, ttl_ms: int | None) -> bool:
        """Store a value; return whether its node confirmed it."""
        context = self.context
        if not context.has_one_owner:
            return self.run(set_(context, key, value, ttl_ms))
        record = context.codec.encode(value, key)
        return settle_set(context, self._write(key, begin_set(context, key, record, ttl_ms)))

    async def aset(self, key: bytes, value: Any, ttl_ms: int | None) -> bool:
        """Store a value, in the running event loop; return whether its node confirmed it."""
        context = self.context
        if not context.has_one_owner:
            return await self.arun(set_(context, key, value, ttl_ms))
        node, command = begin_set(context, key, context.codec.encode(value, key), ttl_ms)
        context.drop_near((key,))
        [reply] = await self.nodes[node].submit([command])
        if is_unknown_script(reply) and isinstance(command, ScriptCall):
            [reply] = await self.nodes[node].submit([command.with_source])
        if reply.__class__ is bytes:
            settle_write(context, key, node, reply)
            return True
        with DeferredCalls() as deferred:  # the outbox table stores what the node missed
            try:
                settle_write(context, key, node, reply)
                return settle_set(context, reply)
            finally:
                await deferred.make_calls()

    def delete(self, key: bytes) -> bool:
        """Delete a key; return whether it held a record."""
        context = self.context
        if not context.has_one_owner:
            return self.run(delete(context, key))
        return settle_delete(context, self._write(key, begin_delete(context, key)))

    def _write(self, key: bytes, request: Request) -> Reply:
        """Send a write of a key that its owner alone can hold: the bracket of ``protocol.ring.write``."""
        context = self.context
        context.drop_near((key,))
        reply = self._send(request)
        settle_write(context, key, request[0], reply)
        return reply

    def _send(self, request: Request) -> Reply:
        node, command = request
        reply = self.nodes[node].call(command)
        if reply.__class__ is NodeReplyError and is_unknown_script(reply) and isinstance(command, ScriptCall):
            reply = self.nodes[node].call(command.with_source)
        return reply

    def get_or_load(self, key: bytes, loader: Loader, fill_options: FillOptions) -> Any:
        """Return the value of a key; load and fill it if there is none, or it is due for a refresh.

        A request for a lease returns the value, too, but costs more than GET. So a key that had a value
        when this process last asked for a lease is read first.
        """
        context = self.context
        if self._near is not None or fill_options.tags or fill_options.shapes:
            return self.run(get_or_load(context, key, loader, fill_options))
        if key in self._hits:
            failed: FailedNodes = {}
            value = self.get_fresh(context, key, failed, MISS)
            if value is not MISS:
                return value
            self._hits.discard(key)
            if failed:
                return self.run(get_or_load(context, key, loader, fill_options), failed)
        lease, (node, command) = begin_lease(context, key)
        begun = context.counters.begin_get()
        try:
            reply = self.nodes[node].call(command)
        except BaseException:  # interrupted: the request may have been sent
            give_up(context, [lease])
            raise
        if begun is not None:
            context.end_get(begun, key, reply)
        value = settle_load(context, lease, reply, loader, fill_options)
        if value is GRANTED:
            return self._load_and_fill(lease, loader, fill_options)
        if value.__class__ is Continue:
            return self.run(value.operation)
        if len(key) <= _MAX_KEY_BYTES:
            if len(self._hits) >= MAX_HITS:
                self._hits.clear()
            self._hits.add(key)
        return value

    def _load_and_fill(self, lease: LeaseRequest, loader: Loader, fill_options: FillOptions) -> Any:
        """Load under a lease that was granted, and fill it."""
        context = self.context
        begun = context.clock.monotonic()
        try:
            try:
                value = load(loader, (lease.token,))
            finally:
                seconds = count_load(context, begun, (lease,))
            may_fill = value.__class__ is not Unfilled
            if may_fill:
                fill = begin_fill(context, lease, value, fill_options, Tokens(), load_seconds=seconds)
        except BaseException:
            self.run(release(context, [lease]))
            raise
        if not may_fill:  # another reader may be able to fill: it acquires the lease
            self.run(release(context, [lease]))
            return value.value
        try:
            reply = self._send(fill.request(context))
        except BaseException:  # interrupted: the fill may not have arrived
            give_up(context, [lease])
            raise
        if rest := settle_fill(context, fill, reply):
            self.run(rest.operation)
        return value

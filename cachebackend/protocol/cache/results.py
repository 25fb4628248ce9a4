"""The read of a query's result whose tags and shapes are known: a hit is one scatter."""

from __future__ import annotations

from typing import Any

from cachebackend.effects import Operation, Send
from cachebackend.protocol.cache.fill import FillOptions
from cachebackend.protocol.cache.freshness import read_record
from cachebackend.protocol.cache.get import begin_get
from cachebackend.protocol.cache.tags import TokenRead
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context

__all__ = ["get_result"]


def get_result(context: Context, key: bytes, fill_options: FillOptions, missing: Any) -> Operation[Any]:
    """Return a result that needs no load, or ``missing``; the load that follows counts the miss.

    Args:
        context: The alias.
        key: The key of the result.
        fill_options: Its tags and shapes.
        missing: Returned if there is no result, if a change made it wrong, or if it is due for a refresh.
    """
    tokens = Tokens(fill_options.token_names)
    read = TokenRead(context, fill_options.tags, fill_options.shapes)
    begun = context.counters.begin_get()
    reply, *replies = yield Send([begin_get(context, key), *read.requests])
    if begun is not None:
        context.counters.end_get(begun)
    if reply.__class__ is not bytes:
        return missing
    read.settle(tokens, replies)
    cached = read_record(context, key, reply, tokens, allow_stale=False)
    if cached is None or cached.due:
        return missing
    context.counters.cell.hits += 1
    return cached.value

"""The read of a query's result: its value, and the tokens of its tags and shapes, in one scatter.

On a miss the shapes are registered, and the tokens taken, with the lease and before the load
(``shapes`` says why).
"""

from __future__ import annotations

from typing import Any

from cachebackend.effects import Operation, Send
from cachebackend.protocol.cache.fill import FillOptions, Loader
from cachebackend.protocol.cache.get import begin_get
from cachebackend.protocol.cache.lease import LeaseRequest
from cachebackend.protocol.cache.load import load_if_needed
from cachebackend.protocol.cache.shapes import shape_token_requests, shape_tokens_of
from cachebackend.protocol.cache.tags import token_requests, tokens_of
from cachebackend.protocol.context import Context

__all__ = ["get_or_load_result"]


def get_or_load_result(
    context: Context, key: bytes, loader: Loader, fill_options: FillOptions
) -> Operation[Any]:
    """Return the result of a query; load and fill it if there is none, or a change made it wrong.

    Args:
        context: The alias.
        key: The key of the result.
        loader: Called without arguments, after the lease is held and never before.
        fill_options: How the loaded result is stored, with its tags and shapes.
    """
    tags, shapes = fill_options.tags, fill_options.shapes
    begun = context.counters.begin_get()
    reply, *replies = yield Send(
        [
            begin_get(context, key),
            *token_requests(context, tags),
            *shape_token_requests(context, shapes),
        ]
    )
    context.counters.end_get(begun)
    tokens = tokens_of(tags, replies[: len(tags)]) | shape_tokens_of(shapes, replies[len(tags) :])
    lease = LeaseRequest(context.serving_node(key), key, context.clock.token())
    return (yield from load_if_needed(context, lease, reply, loader, fill_options, tokens=tokens))

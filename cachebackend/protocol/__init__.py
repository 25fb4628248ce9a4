"""Every operation on the ring, once, as a generator of effects.

This package has those of the cache; ``protocol.queue`` has those of write-behind queues, and
``protocol.telemetry`` those that observe. The latter two are imported when they are first used.

An operation decides which commands to send to which node, and what the replies mean. The drivers
send the commands; the nodes hold the connections. This package imports neither ``drivers`` nor
``node``, so a test can run an operation step by step.
"""

from typing import TYPE_CHECKING, Any

from cachebackend.effects import Ask, Load, Operation, sharing_first_scatter
from cachebackend.imports import import_at_first_use
from cachebackend.protocol.cache.fill import MISSING, FillOptions, Loader, Unfilled
from cachebackend.protocol.cache.freshness import value_of
from cachebackend.protocol.cache.get import get, get_many, has_key, ttl
from cachebackend.protocol.cache.lease_on_get import (
    NOT_LEASED,
    Lease,
    get_and_lease,
    get_many_and_lease,
    release,
    set_many_with_lease,
)
from cachebackend.protocol.cache.load import ManyLoader, get_or_load, get_or_load_many, load_again
from cachebackend.protocol.cache.move import move
from cachebackend.protocol.cache.quarantine import quarantine, unquarantine
from cachebackend.protocol.cache.results import get_result, get_result_and_rows
from cachebackend.protocol.cache.scan import KeyScan
from cachebackend.protocol.cache.set import add, incr, make_stale, replace, set_, set_many, touch
from cachebackend.protocol.cache.shapes import (
    MAX_SHAPES,
    RegisteredShapes,
    ShapeEntry,
    count_shapes,
    describe_shapes,
    is_full,
    read_shards,
)
from cachebackend.protocol.cache.tags import has_tag_tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.clear import (
    clear,
    clear_missed,
    delete_matching,
    delete_misplaced,
    flush,
    refresh_nodes,
)
from cachebackend.protocol.ring.deletes import delete, delete_many

if TYPE_CHECKING:
    from cachebackend.protocol import queue, telemetry

__all__ = [
    "MAX_SHAPES",
    "MISSING",
    "NOT_LEASED",
    "Ask",
    "Context",
    "FillOptions",
    "KeyScan",
    "Lease",
    "Load",
    "Loader",
    "ManyLoader",
    "Operation",
    "RegisteredShapes",
    "ShapeEntry",
    "Unfilled",
    "add",
    "clear",
    "clear_missed",
    "count_shapes",
    "delete",
    "delete_many",
    "delete_matching",
    "delete_misplaced",
    "describe_shapes",
    "flush",
    "get",
    "get_and_lease",
    "get_many",
    "get_many_and_lease",
    "get_or_load",
    "get_or_load_many",
    "get_result",
    "get_result_and_rows",
    "has_key",
    "has_tag_tokens",
    "incr",
    "is_full",
    "load_again",
    "make_stale",
    "move",
    "quarantine",
    "queue",
    "read_shards",
    "refresh_nodes",
    "release",
    "replace",
    "set_",
    "set_many",
    "set_many_with_lease",
    "sharing_first_scatter",
    "telemetry",
    "touch",
    "ttl",
    "unquarantine",
    "value_of",
]


def __getattr__(name: str) -> Any:
    if name not in {"queue", "telemetry"}:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return import_at_first_use(f"{__name__}.{name}")

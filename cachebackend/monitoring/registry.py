"""The registry of shapes: the tables for whose cached queries it has no room left."""

from __future__ import annotations

from django.db import router

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.backend.query_names import shard_names
from cachebackend.backend.scope import scope_of
from cachebackend.invalidation.tables import all_tables, table_name
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.runbook import FaultKind

__all__ = ["registry_faults"]


def registry_faults(alias: str) -> list[Fault]:
    """Return a fault for each table of which a shard is full, in the present namespace."""
    cache = ring_cache(alias)
    shards: dict[bytes, str] = {}
    for table in all_tables():
        if alias in table.result_aliases:
            name = table_name(table.model._meta.db_table)
            names = shard_names(scope_of(router.db_for_write(table.model)), name)
            shards |= dict.fromkeys(cache.many_tag_bytes(names), name)
    sizes = cache.client.run(protocol.count_shapes(cache.client.context, shards)) if shards else {}
    full = sorted({shards[shard] for shard, size in sizes.items() if size >= protocol.MAX_SHAPES})
    return [Fault(FaultKind.SHAPES_FULL, _message(alias, table)) for table in full]


def _message(alias: str, table: str) -> str:
    return (
        f"The registry of {alias!r} has no room for further shapes of queries over the table {table!r} "
        f"({protocol.MAX_SHAPES} in each of its parts): every change of the table invalidates their results."
    )

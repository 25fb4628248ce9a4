"""Invalidation: which keys a changed row makes wrong, and when they are deleted.

``watched`` knows what is cached of a model, and ``tables`` which rows a changed row is a part of.
``compilers`` sees every write of the ORM, and ``writes`` executes it and finds the changed rows;
``triggers``, ``relation_triggers`` and ``raw_sql`` see the other writes.
``catalogue`` knows what the database says of a table. ``transactions`` deletes the keys after the
commit, never before it, and ``deletes`` sends the deletes to the nodes. ``outbox`` stores each
delete until every node has confirmed it, and ``relay`` retries it if the writing process dies or a
node is down. ``migrations`` drops what is cached of migrated tables.

Imports the backend and the models. Never decides how a key is read or filled.
"""

from cachebackend.invalidation import raw_sql as raw_sql
from cachebackend.invalidation.compilers import watch, watch_queries
from cachebackend.invalidation.migrations import connect_migrations
from cachebackend.invalidation.outbox import connect_outbox
from cachebackend.invalidation.relation_triggers import add_relation_triggers
from cachebackend.invalidation.relay import RelayResult, outbox_lag, relay
from cachebackend.invalidation.tags import invalidate, watch_tags
from cachebackend.invalidation.transactions import invalidate_rows
from cachebackend.invalidation.watched import Dependent

__all__ = [
    "Dependent",
    "RelayResult",
    "add_relation_triggers",
    "connect_migrations",
    "connect_outbox",
    "invalidate",
    "invalidate_rows",
    "outbox_lag",
    "relay",
    "watch",
    "watch_queries",
    "watch_tags",
]

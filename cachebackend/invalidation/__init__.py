"""A row changed: which keys that makes wrong, and when they are deleted.

``dependents`` knows the keys of a model's rows; ``signals`` and ``querysets`` notice
changes; ``transactions`` deletes after the commit, never before it; ``outbox`` and
``relay`` see to it that a delete is made even if who owes it dies. Decides nothing about
how keys are read or filled.
"""

from cachebackend.invalidation.missed_deletes import watch_missed
from cachebackend.invalidation.querysets import InvalidatingManager, InvalidatingQuerySet
from cachebackend.invalidation.relay import Relayed, outbox_lag, relay
from cachebackend.invalidation.signals import watch
from cachebackend.invalidation.tags import invalidate
from cachebackend.invalidation.transactions import invalidate_rows
from cachebackend.invalidation.watched import Dependent

__all__ = [
    "Dependent",
    "InvalidatingManager",
    "InvalidatingQuerySet",
    "Relayed",
    "invalidate",
    "invalidate_rows",
    "outbox_lag",
    "relay",
    "watch",
    "watch_missed",
]

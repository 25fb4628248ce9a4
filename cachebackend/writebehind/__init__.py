"""Writes that are taken in the queue's memory and land in Postgres, each exactly once.

``wire`` says how values travel, ``expressions`` what may be written, ``changes`` what a call
asks for; ``manager`` queues it and ``reading`` reads rows with what is queued. ``drains``
lands a partition's batches, ``apply`` is the SQL of one, and ``parking`` sets aside what
Postgres refuses. Celery tasks over these are in ``workers``.
"""

from cachebackend.writebehind.drains import Drained, dirty_partitions, drain, seal_dirty
from cachebackend.writebehind.manager import WriteBehindManager
from cachebackend.writebehind.parking import Retried, discard, retry

__all__ = [
    "Drained",
    "Retried",
    "WriteBehindManager",
    "dirty_partitions",
    "discard",
    "drain",
    "retry",
    "seal_dirty",
]

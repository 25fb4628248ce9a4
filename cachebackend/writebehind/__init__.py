"""Writes that are taken in the queue's memory and land in Postgres, each exactly once.

``wire`` says how values travel, ``expressions`` what may be written, ``changes`` what a call
asks for; ``manager`` queues it and ``reading`` reads rows with what is queued. ``drains``
lands a partition's batches, ``checkpoints`` says which queues it may trust, ``apply`` is the
SQL of one batch, and ``parking`` sets aside what Postgres refuses. ``status`` tells how all
is, ``repairing`` lets go on what stopped. Celery tasks over these are in ``workers``.
"""

from cachebackend.writebehind.drains import Drained, dirty_partitions, drain, seal_dirty
from cachebackend.writebehind.keys import uuid7
from cachebackend.writebehind.manager import WriteBehindManager
from cachebackend.writebehind.parked import Retried, discard, retry
from cachebackend.writebehind.repair import Fault, find_faults, repair
from cachebackend.writebehind.status import PartitionStatus, databases, node_faults, partition_statuses

__all__ = [
    "Drained",
    "Fault",
    "PartitionStatus",
    "Retried",
    "WriteBehindManager",
    "databases",
    "dirty_partitions",
    "discard",
    "drain",
    "find_faults",
    "node_faults",
    "partition_statuses",
    "repair",
    "retry",
    "seal_dirty",
    "uuid7",
]

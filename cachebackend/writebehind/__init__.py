"""Write-behind: writes are queued in Redis and drained to Postgres, each exactly once.

``encoding``, ``expressions`` and ``changes`` turn a call of ``manager`` into bytes, ``folds`` queues
them, and ``reads`` merges rows with queued writes. ``seals`` finds what to drain, and ``drains``
writes batches to the database with ``apply`` and ``checkpoints``; ``parked`` sets refused rows
aside; ``moves``, ``locks``, ``row_locks``, ``status`` and ``repair`` serve people.
May import Django, the client and ``invalidation``. Never imports Celery (the tasks are in
``cachebackend.tasks``), and never writes to a cached value.
"""

from cachebackend.writebehind.answers import Answers
from cachebackend.writebehind.drain_requests import begin_drain, request_drains
from cachebackend.writebehind.drains import Drained, drain, due_databases, is_database_away
from cachebackend.writebehind.erasure import erase_queue
from cachebackend.writebehind.keys import uuid7
from cachebackend.writebehind.locks import LockHolder, lock_holders
from cachebackend.writebehind.manager import WriteBehindManager
from cachebackend.writebehind.moves import NodeMoves, node_moves
from cachebackend.writebehind.node_faults import node_faults
from cachebackend.writebehind.parked import discard
from cachebackend.writebehind.partitions import change_partitions
from cachebackend.writebehind.removed import (
    RemovedModel,
    drain_removed,
    drop_removed,
    removed_models,
    would_replace_newer,
)
from cachebackend.writebehind.repair import Fault, find_faults, repair
from cachebackend.writebehind.retries import Retried, retry, retry_all_waiting, retry_waiting
from cachebackend.writebehind.row_locks import RowLock, row_locks
from cachebackend.writebehind.seals import dirty_partitions, find_dirty, seal_dirty
from cachebackend.writebehind.sessions import Blocker
from cachebackend.writebehind.status import (
    PartitionStatus,
    all_databases,
    databases,
    partition_statuses,
)
from cachebackend.writebehind.waiting import landed

__all__ = [
    "Answers",
    "Blocker",
    "Drained",
    "Fault",
    "LockHolder",
    "NodeMoves",
    "PartitionStatus",
    "RemovedModel",
    "Retried",
    "RowLock",
    "WriteBehindManager",
    "all_databases",
    "begin_drain",
    "change_partitions",
    "databases",
    "dirty_partitions",
    "discard",
    "drain",
    "drain_removed",
    "drop_removed",
    "due_databases",
    "erase_queue",
    "find_dirty",
    "find_faults",
    "is_database_away",
    "landed",
    "lock_holders",
    "node_faults",
    "node_moves",
    "partition_statuses",
    "removed_models",
    "repair",
    "request_drains",
    "retry",
    "retry_all_waiting",
    "retry_waiting",
    "row_locks",
    "seal_dirty",
    "uuid7",
    "would_replace_newer",
]

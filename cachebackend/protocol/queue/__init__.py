"""Operations on the write-behind queue: partitions, batches, and how readers see queued writes.

``partition`` names the keys, ``fold`` merges writes into the open batch, ``seal`` closes batches,
syncs and deletes them, ``pending`` reads them, ``queue_state`` reports the state of each queue,
``drain_requests`` keeps Celery's queue short.
Each is a generator of effects. May import effects, options, clock and ring. Never imports the
cache's operations, Django or redis, and never writes to a database.
"""

from cachebackend.protocol.queue.counts import (
    are_empty,
    exchange_partition_counts,
    partition_counts,
    share_partition_count,
)
from cachebackend.protocol.queue.drain_requests import begin_drain, pending_requests, request_drains
from cachebackend.protocol.queue.folding import OK, Change, Folded, RowWrite, fold
from cachebackend.protocol.queue.partition import Partition, QueueContext
from cachebackend.protocol.queue.pending_writes import Pending, batch_sizes, contents, pending
from cachebackend.protocol.queue.queue_state import QueueState, dirty, node_settings, queue_states
from cachebackend.protocol.queue.sealing import close, fail, seal, seal_many, sync, sync_fault

__all__ = [
    "OK",
    "Change",
    "Folded",
    "Partition",
    "Pending",
    "QueueContext",
    "QueueState",
    "RowWrite",
    "are_empty",
    "batch_sizes",
    "begin_drain",
    "close",
    "contents",
    "dirty",
    "exchange_partition_counts",
    "fail",
    "fold",
    "node_settings",
    "partition_counts",
    "pending",
    "pending_requests",
    "queue_states",
    "request_drains",
    "seal",
    "seal_many",
    "share_partition_count",
    "sync",
    "sync_fault",
]

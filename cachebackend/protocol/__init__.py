"""Every operation on the ring, once, as a generator of effects.

An operation decides which commands to send to which node, and what the replies mean. The drivers
send the commands; the nodes hold the connections. This package imports neither ``drivers`` nor
``node``, so a test can run an operation step by step.
"""

from cachebackend.effects import Ask, Load, Operation, sharing_first_scatter
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
from cachebackend.protocol.queue.counts import (
    are_empty,
    exchange_partition_counts,
    partition_counts,
    share_partition_count,
)
from cachebackend.protocol.queue.drain_requests import begin_drain, pending_requests, request_drains
from cachebackend.protocol.queue.fold import OK, Change, Folded, RowWrite, fold
from cachebackend.protocol.queue.partition import Partition, QueueContext
from cachebackend.protocol.queue.pending import Pending, batch_sizes, contents, pending
from cachebackend.protocol.queue.queue_state import QueueState, dirty, node_settings, queue_states
from cachebackend.protocol.queue.seal import close, fail, seal, seal_many, sync, sync_fault
from cachebackend.protocol.ring.clear import (
    clear,
    clear_missed,
    delete_matching,
    delete_misplaced,
    flush,
    refresh_nodes,
)
from cachebackend.protocol.ring.deletes import delete, delete_many
from cachebackend.protocol.telemetry.counters import (
    Lags,
    StoredCounts,
    add_counts,
    nodes_of,
    read_counts,
    read_total,
    stored_counts,
)
from cachebackend.protocol.telemetry.form_counts import (
    FormCount,
    StoredForms,
    add_form_counts,
    forms_of,
    read_form_counts,
)
from cachebackend.protocol.telemetry.key_sizes import random_key_sizes
from cachebackend.protocol.telemetry.node_info import (
    Inspected,
    command_infos,
    inspect,
    inspect_shard,
    memory_usage,
    node_infos,
    node_times,
    number_of,
    stored_tokens,
)
from cachebackend.protocol.telemetry.processes import (
    NodePresences,
    Presence,
    processes_key,
    read_processes,
    report_process,
    withdraw_process,
)
from cachebackend.protocol.telemetry.task_runs import read_run_ages, record_run

__all__ = [
    "MAX_SHAPES",
    "MISSING",
    "NOT_LEASED",
    "OK",
    "Ask",
    "Change",
    "Context",
    "FillOptions",
    "Folded",
    "FormCount",
    "Inspected",
    "KeyScan",
    "Lags",
    "Lease",
    "Load",
    "Loader",
    "ManyLoader",
    "NodePresences",
    "Operation",
    "Partition",
    "Pending",
    "Presence",
    "QueueContext",
    "QueueState",
    "RegisteredShapes",
    "RowWrite",
    "ShapeEntry",
    "StoredCounts",
    "StoredForms",
    "Unfilled",
    "add",
    "add_counts",
    "add_form_counts",
    "are_empty",
    "batch_sizes",
    "begin_drain",
    "clear",
    "clear_missed",
    "close",
    "command_infos",
    "contents",
    "count_shapes",
    "delete",
    "delete_many",
    "delete_matching",
    "delete_misplaced",
    "describe_shapes",
    "dirty",
    "exchange_partition_counts",
    "fail",
    "flush",
    "fold",
    "forms_of",
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
    "inspect",
    "inspect_shard",
    "is_full",
    "load_again",
    "make_stale",
    "memory_usage",
    "move",
    "node_infos",
    "node_settings",
    "node_times",
    "nodes_of",
    "number_of",
    "partition_counts",
    "pending",
    "pending_requests",
    "processes_key",
    "quarantine",
    "queue_states",
    "random_key_sizes",
    "read_counts",
    "read_form_counts",
    "read_processes",
    "read_run_ages",
    "read_shards",
    "read_total",
    "record_run",
    "refresh_nodes",
    "release",
    "replace",
    "report_process",
    "request_drains",
    "seal",
    "seal_many",
    "set_",
    "set_many",
    "set_many_with_lease",
    "share_partition_count",
    "sharing_first_scatter",
    "stored_counts",
    "stored_tokens",
    "sync",
    "sync_fault",
    "touch",
    "ttl",
    "unquarantine",
    "value_of",
    "withdraw_process",
]

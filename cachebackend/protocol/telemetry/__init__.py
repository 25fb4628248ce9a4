"""Operations that observe: shared counters, the nodes' INFO, and the record of one key.

Each is a generator of effects over the alias' nodes (or the queue's, for the counters). May import
what ``protocol.cache`` may import, and the queue's context. Never changes a cached value.
"""

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
    "FormCount",
    "Inspected",
    "Lags",
    "NodePresences",
    "Presence",
    "StoredCounts",
    "StoredForms",
    "add_counts",
    "add_form_counts",
    "command_infos",
    "forms_of",
    "inspect",
    "inspect_shard",
    "memory_usage",
    "node_infos",
    "node_times",
    "nodes_of",
    "number_of",
    "processes_key",
    "random_key_sizes",
    "read_counts",
    "read_form_counts",
    "read_processes",
    "read_run_ages",
    "read_total",
    "record_run",
    "report_process",
    "stored_counts",
    "stored_tokens",
    "withdraw_process",
]

"""Figures, thresholds and faults, each computed once for the page, the metrics and the commands.

``site`` has all of them. ``ring`` has a cache alias, ``nodes`` its nodes, ``setup`` how they are
configured; ``outbox`` the pending deletes, ``workers`` the periodic tasks, ``processes`` the processes of
the site, ``queues`` write-behind, ``queries`` what is read by cached querysets, ``inspector`` one key;
``faults`` holds the thresholds, ``runbook`` what to do about each kind of fault, ``formatting`` turns
figures into text. May import everything below it, never ``admin`` or ``management``. Never changes a
cached value, never unpickles one, and waits for each node at most once.
"""

from __future__ import annotations

from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.inspector import KeyFigures, key_figures
from cachebackend.monitoring.nodes import NodeFigures, node_figures
from cachebackend.monitoring.outbox import OutboxFigures, outbox_figures
from cachebackend.monitoring.processes import ProcessFigures, process_figures
from cachebackend.monitoring.queries import QueryFigures, query_figures, total_query_figures
from cachebackend.monitoring.queues import QueueFigures, queue_figures
from cachebackend.monitoring.reading import try_to_read
from cachebackend.monitoring.ring import AliasFigures, alias_figures, hit_ratio
from cachebackend.monitoring.site import SiteFigures, site_figures
from cachebackend.monitoring.workers import WorkerFigures, worker_figures

__all__ = [
    "AliasFigures",
    "Fault",
    "KeyFigures",
    "NodeFigures",
    "OutboxFigures",
    "ProcessFigures",
    "QueryFigures",
    "QueueFigures",
    "SiteFigures",
    "WorkerFigures",
    "alias_figures",
    "hit_ratio",
    "key_figures",
    "node_figures",
    "outbox_figures",
    "process_figures",
    "query_figures",
    "queue_figures",
    "site_figures",
    "total_query_figures",
    "try_to_read",
    "worker_figures",
]

"""The Celery tasks, found by ``autodiscover_tasks`` like those of any app.

Each is a thin call of a plain function: idempotent, without a result, with a time limit, and
safe to run twice at once. Nothing in ``cachebackend`` imports this module: Celery is an extra.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task, signals
from django.db import InterfaceError, OperationalError

from cachebackend import invalidation, writebehind
from cachebackend.conf import write_behind_options
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.managers.audit import WINDOWS, cached_managers
from cachebackend.managers.audit import audit as audit_rows
from cachebackend.protocol import Partition
from cachebackend.telemetry import heartbeat, shutdown

__all__ = ["audit", "drain", "relay", "tick"]

logger = logging.getLogger(__name__)

#: A drain that takes longer is broken off; its batch stays for the next.
DRAIN_SECONDS = 120
#: A worker that was asked to stop earlier has this long to finish its batch.
DRAIN_SOFT_SECONDS = 90


@shared_task(ignore_result=True, soft_time_limit=20, time_limit=30)
def relay() -> int:
    """Delete the keys that a crash or a dead node left undeleted; return how many."""
    relayed = invalidation.relay()
    if relayed.pending:
        logger.warning("relay: %d rows still owed, the oldest for %.1f s", relayed.pending, relayed.lag)
    return relayed.keys


@shared_task(ignore_result=True, soft_time_limit=150, time_limit=180)
def audit(sample: int = 1000) -> int:
    """Hold cached rows against the database; return how many stayed wrong for a minute."""
    wrong = 0
    for manager in cached_managers():
        found = audit_rows(manager, sample)
        left = found.differing[WINDOWS[-1]]
        log = logger.error if left else logger.info
        log("audit: of %d cached rows of %s, %d stayed wrong", found.cached, found.model, left)
        wrong += left
    return wrong


@shared_task(ignore_result=True, soft_time_limit=20, time_limit=30)
def tick() -> int:
    """Send a ``drain`` for each partition that holds writes; return how many."""
    heartbeat.record_run("tick")
    try:
        partitions = writebehind.seal_dirty()
    except NodeUnavailableError as error:
        logger.warning("tick: %s; writes wait in the queue", error)
        return 0
    # One that did not start by then is of no use, for others were sent since: they never pile up
    expires = max(2 * write_behind_options().flush_interval, 1.0)
    for partition in partitions:
        drain.apply_async((partition.label, partition.number), expires=expires)
    return len(partitions)


@shared_task(
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    soft_time_limit=DRAIN_SOFT_SECONDS,
    time_limit=DRAIN_SECONDS,
)
def drain(label: str, number: int) -> int:
    """Land what stands in a partition; return how many rows that changed."""
    try:
        drained = writebehind.drain(Partition(label, number))
    except RingCacheError as error:
        logger.error("drain: %s", error)
        return 0
    except (OperationalError, InterfaceError) as error:
        logger.warning("drain: the database did not take a batch, which waits for the next: %s", error)
        return 0
    if drained.missing:
        logger.info("drain: %d rows of %s were not there", drained.missing, label)
    return drained.rows


@signals.worker_ready.connect
def tell_faults(**_: Any) -> None:
    """Say at the start what is wrong with the queue nodes' settings."""
    if write_behind_options().nodes:
        for fault in writebehind.node_faults():
            logger.error("write-behind: %s", fault)


@signals.worker_process_shutdown.connect
def publish_last_counts(**_: Any) -> None:
    """Fold what is left: such a process ends without Python's own shutdown."""
    shutdown.publish_last()

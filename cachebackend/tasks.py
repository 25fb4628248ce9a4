"""The Celery tasks, found by ``autodiscover_tasks`` like those of any app.

Each task only calls a plain function. It is idempotent, stores no result, has a time limit, and
is safe to run twice at the same time. Nothing in ``cachebackend`` imports this module: Celery is
an optional dependency.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

from django.db import Error, InterfaceError, OperationalError

from cachebackend import invalidation, writebehind
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import write_behind_options
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.managers.audit import WINDOWS, cached_managers
from cachebackend.managers.audit import audit as audit_rows
from cachebackend.monitoring.observer import observe
from cachebackend.protocol.queue import Partition
from cachebackend.telemetry import heartbeat, shutdown, this_process
from cachebackend.telemetry.publisher import level_all

try:
    from celery import current_app, shared_task, signals
    from celery.exceptions import QueueNotFound
except ModuleNotFoundError as error:
    message = "the periodic tasks need Celery: pip install 'django-ringcache[celery]'"
    raise ImportError(message) from error

__all__ = ["audit", "drain", "relay", "retry_waiting", "tick"]

logger = logging.getLogger(__name__)

#: Seconds. Celery kills a drain that takes longer; the next drain applies its batch.
DRAIN_SECONDS = 120
#: Seconds after which Celery interrupts a drain; a worker that is stopping has as long for its batch.
DRAIN_SOFT_SECONDS = 90
#: Seconds for which deletes may be pending before the relay warns; then it warns once a minute.
PENDING_SECONDS = 10.0
_pending_log = LogRateLimit(SYSTEM_CLOCK)


@shared_task(ignore_result=True, soft_time_limit=20, time_limit=30)
def relay() -> int:
    """Delete the keys of pending outbox rows; return the number of keys deleted."""
    result = invalidation.relay()
    observe()
    level_all()
    if result.pending and result.lag > PENDING_SECONDS and _pending_log.to_log():
        logger.warning(
            "relay: %d outbox rows are still pending, the oldest for %.1f s", result.pending, result.lag
        )
    return result.keys


@shared_task(ignore_result=True, soft_time_limit=150, time_limit=180)
def audit(sample: int = 1000) -> int:
    """Compare cached rows with the database; return the number that stayed wrong for a minute."""
    total = 0
    for manager in cached_managers():
        result = audit_rows(manager, sample)
        wrong = result.differing[WINDOWS[-1]]
        log = logger.error if wrong else logger.info
        log("audit: of %d cached rows of %s, %d stayed wrong", result.cached, result.model, wrong)
        total += wrong
    return total


@shared_task(ignore_result=True, soft_time_limit=20, time_limit=30)
def tick() -> int:
    """Send a ``drain`` task for each partition that holds writes; return the number of tasks.

    A partition whose last task has not begun yet gets no other one, so tasks do not pile up behind
    slow ones. No task has a time at which it expires: that would compare the clocks of two machines.
    """
    heartbeat.record_run("tick")
    if not write_behind_options().is_on:  # the project does not use write-behind
        return 0
    try:
        partitions = writebehind.request_drains(writebehind.seal_dirty())
    except NodeUnavailableError as error:
        logger.warning("tick: %s; writes wait in the queue", error)
        return 0
    for partition in partitions:
        drain.delay(partition.label, partition.number)
    for using in writebehind.due_databases():
        retry_waiting.delay(using)
    return len(partitions)


@shared_task(
    ignore_result=True,
    acks_late=True,
    reject_on_worker_lost=True,
    soft_time_limit=DRAIN_SOFT_SECONDS,
    time_limit=DRAIN_SECONDS,
)
def drain(label: str, number: int) -> int:
    """Apply the queued writes of a partition to the database; return the number of rows changed."""
    partition = Partition(label, number)
    try:
        writebehind.begin_drain(partition)
        drained = writebehind.drain(partition, only_sealed=True)
    except RingCacheError as error:
        logger.error("drain: %s", error)
        return 0
    except (OperationalError, InterfaceError) as error:
        raise_interrupt(error)
        if not writebehind.is_database_away(partition):
            logger.warning("drain: the database failed; the next drain retries the batch: %s", error)
        return 0
    except Error as error:
        raise_interrupt(error)
        logger.error("drain: the next drain of %s retries the batch: %s", partition, error)
        return 0
    if drained.missing:
        logger.info("drain: %d rows of %s did not exist", drained.missing, label)
    return drained.rows


@shared_task(ignore_result=True, soft_time_limit=DRAIN_SOFT_SECONDS, time_limit=DRAIN_SECONDS)
def retry_waiting(using: str) -> int:
    """Retry parked writes that wait for other rows, locks or a deploy; return the number of those applied."""
    try:
        return writebehind.retry_waiting(using).applied
    except Error as error:
        raise_interrupt(error)
        logger.warning("retry_waiting: the database failed; the writes stay parked: %s", error)
        return 0


@signals.worker_ready.connect
def log_node_faults(**_: Any) -> None:
    """Log the faults in the settings of the queue nodes, when a worker starts."""
    if write_behind_options().is_on:
        for fault in writebehind.node_faults():
            logger.error("write-behind: %s", fault)


@signals.worker_ready.connect
def log_shared_queue(sender: Any, **_: Any) -> None:
    """Log, when a worker starts, that tasks share a queue in which others delay them."""
    app = sender.app
    if not write_behind_options().is_on:
        return
    try:
        routes = queues_of_tasks(app)
    except QueueNotFound as error:
        logger.error(
            "write-behind: no drain can be sent: CELERY_TASK_ROUTES names an unknown queue: %s", error
        )
        return
    queue = routes.get("drain")
    if queue == app.conf.task_default_queue:
        logger.warning(
            "write-behind: drains wait behind the other tasks of Celery's queue %r; set CELERY_TASK_ROUTES "
            "to cachebackend.schedule.task_routes(), and start a worker with -Q drains, and one with "
            "-Q periodic",
            queue,
        )
    elif queue is not None and queue in {routes.get("relay"), routes.get("tick")}:
        logger.warning(
            "relay and tick wait behind drains in Celery's queue %r; set CELERY_TASK_ROUTES to "
            "cachebackend.schedule.task_routes(), and start a worker with -Q periodic",
            queue,
        )


def queues_of_tasks(app: Any) -> dict[str, str]:
    """Return Celery's queue of each task, by the task's name.

    A route that names an exchange and a routing key leaves the queue to the broker, so it is not known.

    Raises:
        QueueNotFound: A route names a queue that the app does not know.
    """
    found = {}
    for task in (relay, tick, drain):
        queue = getattr(app.amqp.router.route({}, task.name).get("queue"), "name", None)
        if queue is not None:
            found[task.name.rpartition(".")[2]] = queue
    return found


def app_name() -> str:
    """Return the name of the app, as the command line has it after ``-A``; else that of the app itself."""
    words = sys.argv
    after = next((at for at, word in enumerate(words, 1) if word in {"-A", "--app"}), len(words))
    given = [word.partition("=")[2] for word in words if word.startswith("--app=")]
    return next(iter([*given, *words[after:]]), str(current_app.main or ""))


def broker_address(app: Any) -> str:
    """Return host and port of an app's broker; of several the first. Other parts of its URL may be secret."""
    broker = app.connection_for_write()
    return ":".join(str(part) for part in (broker.hostname, broker.port) if part)


def _report_app() -> None:
    broker = broker_address(current_app)
    this_process.add_facts("app", app_name)
    this_process.add_facts("broker", lambda: broker)


@signals.worker_ready.connect
@signals.worker_process_init.connect
def report_worker(**_: Any) -> None:
    """Report this process, or this child of a pool, as a worker, with the queues that it serves."""
    with suppress(QueueNotFound):
        routes = queues_of_tasks(current_app)
        this_process.add_facts("routes", lambda: routes)
    queues = sorted(current_app.amqp.queues.consume_from)
    this_process.add_facts("queues", lambda: queues)
    _report_app()
    this_process.add_kind("worker")


@signals.beat_init.connect
def report_beat(**_: Any) -> None:
    """Report this process as beat."""
    _report_app()
    this_process.add_kind("beat")


@signals.worker_process_shutdown.connect
def publish_last_counts(**_: Any) -> None:
    """Publish the last counters of a worker process: it exits without running ``atexit``."""
    shutdown.publish_last()

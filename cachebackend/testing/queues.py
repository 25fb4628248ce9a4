"""Write-behind in tests: an empty queue for a block, and a drain that runs in the test itself.

No worker drains the queue of a test: it has a key prefix of its own, also in each process of a parallel
run. So nothing that a test queues reaches another database than the test's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections, router
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.backend.test_prefix import queue_options
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.registry import has_used_queue, queue_client
from cachebackend.writebehind.erasure import delete_keys
from cachebackend.writebehind.queue import model_of

__all__ = ["drain_now", "empty_queue"]

#: How many times the partitions are drained: writes that wait for other rows need several rounds.
_ROUNDS = 20
#: For the prefix of each queue that is open now: the databases to which it was drained.
_open_queues: dict[str, set[str]] = {}


@contextmanager
def empty_queue(*, nodes: Sequence[str] | None = None, **options: Any) -> Iterator[None]:
    """Give ``WRITE_BEHIND`` a unique key prefix for a block, so that its queue is empty; then delete it.

    A block that does not use the queue sends nothing to its nodes.

    Args:
        nodes: The URLs of the queue nodes. Default: those of ``WRITE_BEHIND``; without any,
            write-behind stays off.
        options: Values that are added to ``WRITE_BEHIND``, such as ``partitions=1``. The default of
            ``durability`` is ``"memory"`` here, so any Redis or Valkey will do.
    """
    block = {**getattr(settings, "WRITE_BEHIND", {})}
    if nodes is not None:
        block |= {"nodes": list(nodes), "retiring": []}
    if not block.get("nodes"):
        yield
        return
    block |= {"durability": "memory", "prefix": f"test-{uuid4().hex}", **options}
    with override_settings(WRITE_BEHIND=block):
        own = queue_options()
        _open_queues[own.prefix] = set()
        try:
            yield
        finally:
            del _open_queues[own.prefix]
            if has_used_queue(own.prefix):
                _forget_checkpoints(delete_keys(queue_client(own)))


def drain_now() -> None:
    """Write all queued changes to the test's database, in this thread, inside the test's transaction if any.

    It sends no query to a database for which nothing is queued.

    Raises:
        AssertionError: A change cannot be written: the message has the database's error.
        ImproperlyConfigured: The test has no queue of its own, or has opened a transaction of its own.
        RingCacheError: A queue node did not answer, or a partition stopped.
    """
    databases = _open_queues.get(queue_options().prefix)
    if databases is None:
        message = (
            "drain_now() needs a queue that ends with the test: use RingCacheTestMixin, the pytest plugin "
            "cachebackend.testing.plugin, or a block 'with empty_queue():', which takes options"
        )
        raise ImproperlyConfigured(message)
    for _ in range(_ROUNDS):
        for partition, _since in writebehind.dirty_partitions():
            using = router.db_for_write(model_of(partition))
            _require_no_block(using)
            databases.add(using)
            writebehind.drain(partition)
        done = [writebehind.retry_waiting(using, due_only=False).done for using in databases]
        if not any(done) and not writebehind.dirty_partitions():
            break
    parked = [
        f"{write}: {write.error}"
        for using in sorted(databases)
        for write in ParkedWrite.objects.using(using).all()
    ]
    left = [f"{partition} still has queued writes" for partition, _ in writebehind.dirty_partitions()]
    if parked or left:
        raise AssertionError("drain_now() could not write everything: " + "; ".join(parked + left))


def _require_no_block(using: str) -> None:
    """Raise if the test itself has opened ``atomic()``; it may be in that of a ``TestCase``."""
    blocks = connections[using].atomic_blocks
    if any(not block._from_testcase for block in blocks):  # type: ignore[attr-defined]  # of Django's tests
        message = "drain_now() cannot run inside atomic(): call it after the block, as workers drain later"
        raise ImproperlyConfigured(message)


def _forget_checkpoints(incarnations: Sequence[str]) -> None:
    """Delete the checkpoints of deleted queues."""
    for using in writebehind.databases() if incarnations else ():
        # Outside the test's use of the database, its runner refuses the access and has reset the tables
        with suppress(Error, RuntimeError, AssertionError):
            WriteBehindCheckpoint.objects.using(using).filter(incarnation__in=incarnations).delete()

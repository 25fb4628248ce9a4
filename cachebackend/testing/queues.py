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
from django.db import Error
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.client import QueueClient
from cachebackend.errors import RingCacheError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.writebehind.queue import project_queue

__all__ = ["drain_now", "empty_queue"]

#: Keys that a node returns and deletes in one step.
_KEYS_A_STEP = b"1000"
#: How many times the partitions are drained: writes that wait for other rows need several rounds.
_ROUNDS = 20


@contextmanager
def empty_queue(*, nodes: Sequence[str] | None = None, **options: Any) -> Iterator[None]:
    """Give ``WRITE_BEHIND`` a unique key prefix for a block, so that its queue is empty; then delete it.

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
        try:
            yield
        finally:
            if project_queue().options.prefix == block["prefix"]:
                _delete_queues(project_queue())


def drain_now() -> None:
    """Write all queued changes to the test's database, in this thread, inside its transaction if any.

    Raises:
        AssertionError: A change cannot be written: the message has the database's error.
        RingCacheError: A queue node did not answer, or a partition stopped.
    """
    for _ in range(_ROUNDS):
        for partition, _since in writebehind.dirty_partitions():
            writebehind.drain(partition)
        applied = [
            writebehind.retry_waiting(using, due_only=False).applied for using in writebehind.databases()
        ]
        if not any(applied) and not writebehind.dirty_partitions():
            break
    parked = [
        f"{write}: {write.error}"
        for using in writebehind.databases()
        for write in ParkedWrite.objects.using(using).all()
    ]
    left = [f"{partition} still has queued writes" for partition, _ in writebehind.dirty_partitions()]
    if parked or left:
        raise AssertionError("drain_now() could not write everything: " + "; ".join(parked + left))


def _delete_queues(client: QueueClient) -> None:
    """Delete the keys with the client's prefix, and the checkpoints of its queues."""
    pattern = f"{client.options.prefix}:*".encode()
    incarnations: list[str] = []
    for node in client.nodes:
        cursor = b"0"
        while True:
            reply = node.call((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _KEYS_A_STEP))
            if isinstance(reply, RingCacheError):  # a node that does not answer keeps the keys
                break
            cursor, keys = reply
            born = [node.call((b"HGET", key, b"born")) for key in keys if key.endswith(b":meta")]
            incarnations += [each.decode() for each in born if isinstance(each, bytes)]
            if keys:
                node.call((b"DEL", *keys))
            if cursor == b"0":
                break
    if incarnations:
        # Outside the test's use of the database, its runner refuses the access and has reset the tables
        with suppress(Error, RuntimeError, AssertionError):
            for using in writebehind.databases():
                WriteBehindCheckpoint.objects.using(using).filter(incarnation__in=incarnations).delete()

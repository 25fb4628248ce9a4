"""What the tests of write-behind share: draining, settings, and the management command."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.conf import settings
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.writebehind.queue import project_queue
from tests.commands import report_of

__all__ = ["LOCK_CHECKPOINTS", "command", "drain_all", "one_partition", "restore_keys", "saved_keys"]

#: Runs ``manage.py writebehind`` with ``--json``, and returns its object.
command = partial(report_of, "writebehind")
#: A statement with the locks that a drain holds.
LOCK_CHECKPOINTS = "SELECT 1 FROM cachebackend_writebehindcheckpoint FOR UPDATE"


def drain_all() -> list[writebehind.Drained]:
    return [writebehind.drain(partition) for partition, _ in writebehind.dirty_partitions()]


def one_partition(**options: Any) -> override_settings:
    nodes = settings.WRITE_BEHIND["nodes"]
    return override_settings(WRITE_BEHIND={"nodes": nodes, "partitions": 1} | options)


def saved_keys() -> dict[bytes, bytes]:
    """Return the queue node's data, as its file would hold it."""
    node = project_queue().nodes[0]
    return {key: node.call((b"DUMP", key)) for key in node.call((b"KEYS", b"wb:*"))}


def restore_keys(saved: dict[bytes, bytes]) -> None:
    """Give the queue node data that it had before."""
    node = project_queue().nodes[0]
    node.call((b"FLUSHALL",))
    for key, dump in saved.items():
        node.call((b"RESTORE", key, b"0", dump))

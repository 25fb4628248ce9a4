"""What the tests of write-behind share: draining, settings, and the management command."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.test import override_settings

from cachebackend import writebehind
from cachebackend.writebehind.queue import project_queue

__all__ = ["command", "drain_all", "one_partition", "restore_keys", "saved_keys"]


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


def command(*words: str, code: int = 0) -> dict[str, Any]:
    """Run ``manage.py writebehind`` and return its JSON report."""
    out, ended = StringIO(), 0
    try:
        call_command("writebehind", *words, "--json", stdout=out, stderr=StringIO())
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == code, out.getvalue()
    report: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return report

"""What the tests of write-behind share: draining, settings, and the management command."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.test import override_settings

from cachebackend import writebehind

__all__ = ["command", "drain_all", "one_partition"]


def drain_all() -> list[writebehind.Drained]:
    return [writebehind.drain(partition) for partition, _ in writebehind.dirty_partitions()]


def one_partition(**options: Any) -> override_settings:
    nodes = settings.WRITE_BEHIND["nodes"]
    return override_settings(WRITE_BEHIND={"nodes": nodes, "partitions": 1} | options)


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

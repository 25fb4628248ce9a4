"""Counts that are lost with the keys that hold them: they are unknown, not zero."""

from __future__ import annotations

import time

import pytest

from cachebackend import RingCache
from cachebackend.monitoring.ring import alias_figures

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def test_a_minute_whose_counts_were_evicted_is_unknown(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute in which a process ran and nothing was counted has none."""
    now = time.time
    minute = int(now()) // 60
    monkeypatch.setattr(time, "time", lambda: minute * 60 + 30.0)
    ring_cache.get("k")
    assert _gets(minute) == 1
    monkeypatch.setattr(time, "time", lambda: minute * 60 + 90.0)
    assert _gets(minute + 1) == 0
    monkeypatch.setattr(time, "time", lambda: minute * 60 + 150.0)
    assert (_gets(minute), _gets(minute + 1), _gets(minute + 2)) == (1, 0, 0)
    for node in ring_cache.client.nodes:
        node.call((b"FLUSHALL",))
    assert (_gets(minute), _gets(minute + 1)) == (None, None)


def _gets(minute: int) -> int | None:
    counts = alias_figures("default").minutes[minute]
    return None if counts is None else counts.hits + counts.misses

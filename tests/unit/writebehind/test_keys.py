"""Keys that are made before the database sees the row."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from cachebackend.writebehind import keys
from cachebackend.writebehind.keys import uuid7


def test_a_key_is_a_uuid_of_version_7_and_of_now() -> None:
    """Its first 48 bits are the time in milliseconds."""
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after + 1


def test_keys_grow_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or does not move; each key is different."""
    moments = iter([5_000_000_000, 4_000_000_000, 4_000_000_000])
    monkeypatch.setattr(keys, "_last", 0)
    monkeypatch.setattr(keys.time, "time_ns", lambda: next(moments))
    made = [uuid7() for _ in range(3)]
    assert made == sorted(set(made))


def test_threads_make_different_keys() -> None:
    """All of a process are in one order."""
    made: list[uuid.UUID] = []
    threads = [threading.Thread(target=lambda: made.extend(uuid7() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 2000

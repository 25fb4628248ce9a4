"""Attributes that are computed once."""

from __future__ import annotations

import threading
from pathlib import Path

import cachebackend
from cachebackend.properties import cached_property


class Thing:
    def __init__(self) -> None:
        self.calls = 0
        self.begun, self.may_end = threading.Event(), threading.Event()

    @cached_property
    def value(self) -> int:
        """The number of calls."""
        self.calls += 1
        return self.calls

    @cached_property
    def late(self) -> str:
        """It waits, as for a node."""
        self.begun.set()
        self.may_end.wait(30)
        return "late"


def test_a_value_is_computed_once_for_each_instance() -> None:
    """And again if it was deleted."""
    thing = Thing()
    assert (thing.value, thing.value, Thing().value) == (1, 1, 1)
    del thing.value
    assert thing.value == 2
    assert Thing.value.__doc__ == "The number of calls."


def test_a_thread_that_computes_a_value_blocks_no_other() -> None:
    """Of another instance: it may wait for a node that hangs."""
    slow, fast = Thing(), Thing()
    fast.may_end.set()
    thread = threading.Thread(target=lambda: slow.late)
    thread.start()
    slow.begun.wait(30)
    try:
        other = threading.Thread(target=lambda: fast.late, daemon=True)
        other.start()
        other.join(30)
        assert not other.is_alive()
    finally:
        slow.may_end.set()
        thread.join(30)
    assert slow.late == fast.late == "late"


def test_nothing_uses_the_property_with_a_lock() -> None:
    """That of ``functools`` has one for all instances of a class, before Python 3.12."""
    folder = Path(cachebackend.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert [str(path) for path, text in texts.items() if "functools import cached_property" in text] == []

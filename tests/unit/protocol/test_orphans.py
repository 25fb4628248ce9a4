"""Orphans: leases that a process has given up."""

from __future__ import annotations

from typing import Any

from cachebackend.protocol import orphans as orphans_module
from cachebackend.protocol.orphans import Orphans


def test_leases_are_known_by_node_and_by_record() -> None:
    """Until they are released or taken over."""
    orphans = Orphans()
    orphans.add(0, b"k", b"L1")
    orphans.add(1, b"l", b"L2")
    assert orphans.of(0) == [(b"k", b"L1")]
    assert b"L2" in orphans
    orphans.discard(b"L2")
    orphans.discard(b"L2")
    assert b"L2" not in orphans
    assert orphans.of(1) == []


def test_the_oldest_is_forgotten_if_there_are_too_many() -> None:
    """It expires on its node."""
    orphans = Orphans()
    for number in range(orphans_module._MOST + 1):
        orphans.add(0, b"k", b"L%d" % number)
    assert len(orphans.of(0)) == orphans_module._MOST
    assert b"L0" not in orphans


def test_a_forked_child_gets_another_lock() -> None:
    """A thread of the parent may have held it."""
    orphans = Orphans()
    orphans._lock.acquire()
    orphans.after_fork()
    orphans.add(0, b"k", b"L1")
    assert b"L1" in orphans


def test_a_lease_is_forgotten_under_the_lock() -> None:
    """A probe that releases orphans iterates over them, in a thread of its own."""
    orphans = Orphans()

    class Guarded(dict[bytes, tuple[int, bytes]]):
        def pop(self, *arguments: Any) -> Any:
            assert orphans._lock.locked()
            return super().pop(*arguments)

    orphans._leases = Guarded()
    orphans.add(0, b"k", b"L1")
    orphans.discard(b"L1")
    assert orphans.of(0) == []

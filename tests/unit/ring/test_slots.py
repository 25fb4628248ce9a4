"""Keys to slots."""

from __future__ import annotations

from cachebackend.ring import SLOTS, slot_of
from cachebackend.ring.slots import SLOT_SHIFT


def test_a_slot_is_the_top_of_a_64_bit_hash() -> None:
    """So every slot is a range of hashes, and there are 65,536 of them."""
    assert (1 << 64) >> SLOT_SHIFT == SLOTS == 65_536
    assert all(0 <= slot_of(b"key:%d" % number) < SLOTS for number in range(1000))


def test_keys_are_spread_over_the_slots() -> None:
    """Ten thousand keys meet in few slots."""
    assert len({slot_of(b"key:%d" % number) for number in range(10_000)}) > 9000


def test_a_key_has_the_same_slot_in_every_process() -> None:
    """The hash has no seed."""
    assert [slot_of(key) for key in (b"", b"a", b":1:product:12345")] == [11_526, 59_078, 36_942]

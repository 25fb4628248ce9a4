"""Keys to slots."""

from __future__ import annotations

from cachebackend.ring import SLOTS, seed_of, slot_of
from cachebackend.ring.slots import SLOT_SHIFT

SEED_OF_7 = 16667848380713045890
SLOTS_OF_7 = [58_505, 8_863, 32_311]


def test_a_slot_is_the_top_of_a_64_bit_hash() -> None:
    """So every slot is a range of hashes, and there are 65,536 of them."""
    assert (1 << 64) >> SLOT_SHIFT == SLOTS == 65_536
    assert all(0 <= slot_of(b"key:%d" % number) < SLOTS for number in range(1000))


def test_keys_are_spread_over_the_slots() -> None:
    """Ten thousand keys meet in few slots."""
    assert len({slot_of(b"key:%d" % number) for number in range(10_000)}) > 9000


def test_a_key_has_the_same_slot_in_every_process() -> None:
    """Without a seed, the hash is the same everywhere."""
    assert [slot_of(key) for key in (b"", b"a", b":1:product:12345")] == [11_526, 59_078, 36_942]


def test_a_secret_gives_the_same_seed_in_every_process() -> None:
    """The seeds and slots are constants here: a change of them would move every user's keys."""
    assert seed_of(None) == 0
    assert seed_of(7) == seed_of("7") == SEED_OF_7
    assert [slot_of(key, SEED_OF_7) for key in (b"", b"a", b":1:product:12345")] == SLOTS_OF_7


def test_any_text_gives_a_seed() -> None:
    """A surrogate that UTF-8 does not encode too. The number 0 is a secret like any other."""
    seeds = {seed_of(secret) for secret in ("a", "b", "\udc80", 0, 2**64 - 1)}
    assert len(seeds) == 5
    assert all(0 < seed < 2**64 for seed in seeds)

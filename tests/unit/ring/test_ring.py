"""The ring: the owner of each key."""

from __future__ import annotations

from cachebackend.ring import SLOTS, Ring, slot_of


def test_a_key_belongs_to_the_owner_of_its_slot() -> None:
    """``owner`` and ``slot_of`` agree."""
    ring = Ring([(name, 1.0) for name in "abcdefg"])
    keys = [b"key:%d" % number for number in range(500)]
    assert [ring.owner(key) for key in keys] == [ring.owner_of_slot(slot_of(key)) for key in keys]


def test_keys_are_grouped_by_their_owner() -> None:
    """Every key is in the group of its owner, once."""
    ring = Ring([(name, 1.0) for name in "abc"])
    keys = [b"key:%d" % number for number in range(100)]
    groups = ring.by_owner((key, key) for key in keys)
    assert sorted(key for group in groups.values() for key in group) == sorted(keys)
    assert all(ring.owner(key) == owner for owner, group in groups.items() for key in group)


def test_shares_are_numbers_of_slots() -> None:
    """All together are all slots; a heavier node has more."""
    ring = Ring([("a", 1.0), ("b", 2.0)])
    light, heavy = ring.shares()
    assert light + heavy == SLOTS
    assert 1.8 < heavy / light < 2.2


def test_a_slot_has_moved_if_its_owner_has_another_name() -> None:
    """The order of the nodes does not matter, and no slot stays where every name is new."""
    ring = Ring([("a", 1.0), ("b", 1.0)])
    assert ring.moved(Ring([("b", 1.0), ("a", 1.0)])) == 0
    assert ring.moved(Ring([("c", 1.0), ("d", 1.0)])) == SLOTS


def test_a_ring_knows_its_nodes() -> None:
    """By index."""
    ring = Ring([("a", 1.0), ("b", 2.0)])
    assert (ring.names, ring.weights, len(ring)) == (("a", "b"), (1.0, 2.0), 2)

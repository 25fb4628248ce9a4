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


def test_a_seed_changes_the_owners_of_keys_and_not_of_slots() -> None:
    """Keys that one node owns without the seed are spread with it. Seed 0 is the ring without a seed."""
    nodes = [(name, 1.0) for name in "abcd"]
    ring, unseeded, seeded = Ring(nodes), Ring(nodes, 0), Ring(nodes, 7)
    aimed = [key for key in (b"key:%d" % number for number in range(2000)) if ring.owner(key) == 0]
    assert {unseeded.owner(key) for key in aimed} == {0}
    groups = seeded.by_owner((key, key) for key in aimed)
    assert sorted(groups) == [0, 1, 2, 3]
    assert max(map(len, groups.values())) < len(aimed) / 3
    assert ring.moved(seeded) == 0


def test_every_method_uses_the_seed() -> None:
    """``owner``, ``slot_of`` and ``by_owner`` agree."""
    ring = Ring([(name, 1.0) for name in "abcd"], 7)
    keys = [b"key:%d" % number for number in range(500)]
    owners = [ring.owner(key) for key in keys]
    assert owners == [ring.owner_of_slot(ring.slot_of(key)) for key in keys]
    assert owners == [ring.owner_of_slot(slot_of(key, 7)) for key in keys]
    groups = ring.by_owner((key, key) for key in keys)
    assert all(ring.owner(key) == owner for owner, group in groups.items() for key in group)


def test_the_text_of_a_ring_does_not_show_the_seed() -> None:
    """It is a secret."""
    assert "7654321" not in repr(Ring([("a", 1.0)], 7654321))

"""The slot of a key in a cluster, and the table of owners."""

from __future__ import annotations

import pytest

from cachebackend.ring import CLUSTER_SLOTS, ClusterRing, cluster_slot, key_in_slot


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 12739),
        (b"{user1000}.following", 3443),
        (b"{user1000}.followers", 3443),
        (b"foo{}{bar}", 8363),
        (b"foo{{bar}}zap", 4015),
        (b"foo{bar}{zap}", 5061),
        (b"bar", 5061),
        (b"a{b", 13340),
    ],
)
def test_the_slot_of_a_key_is_the_servers(key: bytes, slot: int) -> None:
    """The numbers are those that CLUSTER KEYSLOT returns; only the first pair of braces counts."""
    assert cluster_slot(key) == slot
    ring = ClusterRing()
    ring.replace([number % 7 for number in range(CLUSTER_SLOTS)], list("abcdefg"))
    assert ring.owner(key) == slot % 7


@pytest.mark.parametrize("prefix", [b"", b"p", b"ringcache:confirm:"])
def test_each_slot_has_a_key_with_a_prefix(prefix: bytes) -> None:
    """Whichever bytes follow the prefix: a pair of braces with nothing in between does not count."""
    keys = [key_in_slot(prefix, slot) for slot in range(CLUSTER_SLOTS)]
    assert list(map(cluster_slot, keys)) == list(range(CLUSTER_SLOTS))
    assert all(key.startswith(prefix) for key in keys)


def test_the_first_node_owns_all_slots_until_the_table_is_known() -> None:
    """The first command goes there, and is redirected."""
    ring = ClusterRing()
    assert (ring.owner(b"a"), ring.owner(b"b"), list(ring.nodes), ring.shares()) == (
        0,
        0,
        [0],
        [CLUSTER_SLOTS],
    )


def test_a_node_without_slots_is_not_among_the_nodes() -> None:
    """It stays in the list of names, so that the indexes of others do not change."""
    ring = ClusterRing()
    ring.replace([2 * (slot % 2) for slot in range(CLUSTER_SLOTS)], ["a", "b", "c"])
    assert (ring.nodes, len(ring), ring.shares()) == ([0, 2], 3, [8192, 0, 8192])


def test_one_slot_changes_its_owner() -> None:
    """As after MOVED: the other slots stay."""
    ring = ClusterRing()
    ring.replace([0] * CLUSTER_SLOTS, ["a", "b"])
    ring.set_owner(cluster_slot(b"bar"), 1)
    assert (ring.owner(b"bar"), ring.holder(0, b"x{bar}"), ring.owner(b"foo")) == (1, 1, 0)
    assert ring.by_owner([(b"bar", 1), (b"foo", 2), (b"x{bar}", 3)]) == {1: [1, 3], 0: [2]}
    assert ring.copies(b"bar", 2) == [1]

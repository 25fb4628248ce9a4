"""The nodes of a result, of its tags and of the shard in which it registers its shapes."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from cachebackend.queries.plans import key_of_result, shard_of_result
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing, Ring

SHARDS = [b"shapes:default:t:%d\xff" % number for number in range(8)]
NODES = Ring([(name, 1.0) for name in "abc"])
RESULTS = [(b"result:%d" % number, sha256(b"%d" % number).digest()) for number in range(2000)]


def test_a_result_is_beside_its_shard() -> None:
    """As far as a shard is on its node; all shards are used, and the results are where their keys are."""
    has_shards = {NODES.owner(shard) for shard in SHARDS}
    chosen: Counter[bytes] = Counter()
    for key, digest in RESULTS:
        shard = shard_of_result(key, SHARDS, digest, NODES)
        assert NODES.owner(shard) == NODES.owner(key) or NODES.owner(key) not in has_shards
        chosen[shard] += 1
    assert set(chosen) == set(SHARDS)


def test_without_a_shard_on_the_node_any_one_is_taken() -> None:
    """The same one by every process."""
    elsewhere = [shard for shard in SHARDS if NODES.owner(shard) != 0]
    chosen = {
        shard_of_result(key, elsewhere, digest, NODES) for key, digest in RESULTS if not NODES.owner(key)
    }
    assert chosen == set(elsewhere)


def test_the_owners_in_a_cluster_decide_nothing() -> None:
    """They change while processes run, which would choose other shards than those that start later."""
    one, two = ClusterRing(), ClusterRing()
    two.replace([slot % 3 for slot in range(CLUSTER_SLOTS)], ["a", "b", "c"])
    chosen = [[shard_of_result(key, SHARDS, digest, ring) for key, digest in RESULTS] for ring in (one, two)]
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) == set(SHARDS)


def test_a_result_is_where_most_of_its_tags_are() -> None:
    """Also on a ring of many nodes; the same key each time."""
    for ring in (NODES, Ring([(str(number), 1.0) for number in range(50)])):
        for _, digest in RESULTS[:200]:
            tags = [b"queries:%d:" % number + digest for number in range(3)]
            owners = [ring.owner(tag) for tag in tags]
            key = key_of_result(digest, tags, ring, str.encode)
            assert ring.owner(key) in owners
            assert owners.count(ring.owner(key)) == max(map(owners.count, owners))
            assert key == key_of_result(digest, tags, ring, str.encode)


def test_results_without_values_are_on_all_nodes() -> None:
    """They have one tag, whose node would hold all of them; and in a cluster owners decide nothing."""
    cluster = ClusterRing()
    cluster.replace([slot % 3 for slot in range(CLUSTER_SLOTS)], ["a", "b", "c"])
    for _, digest in RESULTS[:20]:
        first = f"result:{digest.hex()}".encode()
        assert key_of_result(digest, [], NODES, str.encode) == first
        assert key_of_result(digest, [b"tag"], cluster, str.encode) == first


def test_an_owner_that_no_key_has_is_given_up() -> None:
    """A node may own so little that no tried key is there: the result has its first key, elsewhere."""
    ring = Ring([("a", 1.0), ("b", 0.001)])
    tag = next(tag for tag in (b"%d" % number for number in range(10**6)) if ring.owner(tag) == 1)
    digest = RESULTS[0][1]
    assert key_of_result(digest, [tag], ring, str.encode) == f"result:{digest.hex()}".encode()

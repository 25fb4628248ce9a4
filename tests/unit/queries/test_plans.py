"""The shard in which a result registers its shapes."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from cachebackend.queries.plans import shard_of_result
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

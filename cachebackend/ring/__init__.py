"""The ring: which node owns a key.

``slots`` hashes a key, with a seed, to one of 65,536 slots. ``table`` computes the owner of each slot
once, when the ring is built; the result is immutable. ``cluster`` has the slots of a Redis or Valkey
Cluster, whose owners the cluster decides. The package imports nothing of this project. It is pure
arithmetic: it never connects or reads the time.
"""

from cachebackend.ring.cluster import CLUSTER_SLOTS, ClusterRing, cluster_slot, key_in_slot
from cachebackend.ring.ring import Ring
from cachebackend.ring.slots import SLOTS, seed_of, slot_of
from cachebackend.ring.table import build_table

__all__ = [
    "CLUSTER_SLOTS",
    "SLOTS",
    "ClusterRing",
    "Ring",
    "build_table",
    "cluster_slot",
    "key_in_slot",
    "seed_of",
    "slot_of",
]

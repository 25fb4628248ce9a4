"""A Redis or Valkey Cluster as the ring: its servers decide which of them owns a key, and may change it.

``topology`` is the cluster's own table of slots, and ``reader`` asks its servers for it. ``shard`` is a node
of the ring: the present primary of some slots, which stays the same node when a replica is promoted.
``members`` finds the shard of a server. ``cluster`` keeps the table and reads it again. ``redirections``
follows ``MOVED`` and ``ASK``. ``keys`` divides commands of several keys, which a cluster refuses. ``slot`` is
a part of the queues of write-behind.

A key is at one server at any time, also while its slot moves (see ``redirections``). So everything above this
package works as on nodes of our own ring.
"""

from cachebackend.cluster.cluster import Cluster
from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.slot import PartRing, SlotNode

__all__ = ["Cluster", "PartRing", "ShardNode", "SlotNode"]

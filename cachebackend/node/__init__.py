"""A node: one Redis or Valkey server, the connections of this process to it, and its breaker.

hiredis packs the commands and parses the replies on the socket itself. redis-py asks sentinels for the
primary, and is the client that a project may ask for; it is imported only then. No other package imports
redis-py or hiredis; ``translate`` turns the errors of a connection into ours. A node that does not answer
never raises: the reply is a NodeUnavailableError. The package imports ``effects``, ``options``, ``clock``
and ``errors``, and never knows a key or a ring.
"""

from cachebackend.node.breaker import Breaker, NodeState
from cachebackend.node.node import Node
from cachebackend.node.probed import Exchange, Replay
from cachebackend.node.promises import DiskWait, PromiseWait, ReplicaWait, Wait
from cachebackend.node.tracking import Tracking

__all__ = [
    "Breaker",
    "DiskWait",
    "Exchange",
    "Node",
    "NodeState",
    "PromiseWait",
    "Replay",
    "ReplicaWait",
    "Tracking",
    "Wait",
]

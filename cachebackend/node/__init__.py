"""One Redis or Valkey server, and the connections this process holds to it.

redis-py connects, authenticates and does TLS; from then on requests are packed and
replies parsed by hiredis on the bare socket. This is the only package that imports
either; their errors become ours in ``translate``, once. A failure to answer is a reply
(NodeUnavailableError in the reply's place), never an exception.
"""

from cachebackend.node.breaker import Breaker, NodeState
from cachebackend.node.handshake import RedisClient, RedisLock
from cachebackend.node.node import Exchange, Node, Replay
from cachebackend.node.tracking import Tracking

__all__ = ["Breaker", "Exchange", "Node", "NodeState", "RedisClient", "RedisLock", "Replay", "Tracking"]

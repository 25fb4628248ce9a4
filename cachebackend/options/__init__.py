"""What the settings say, read once and validated whole.

Plain frozen values: nothing here reads Django's settings (``conf`` does), opens a
connection, or has a default that another module repeats. Every fault is collected
and named by the path of its setting before anything is built.
"""

from cachebackend.options.faults import Faults
from cachebackend.options.ring import RingOptions, change_faults
from cachebackend.options.sentinel import SENTINEL_SCHEME, SentinelAddress, sentinel_address
from cachebackend.options.url import NodeAddress, parse_node, parse_nodes
from cachebackend.options.writebehind import WriteBehindOptions

__all__ = [
    "SENTINEL_SCHEME",
    "Faults",
    "NodeAddress",
    "RingOptions",
    "SentinelAddress",
    "WriteBehindOptions",
    "change_faults",
    "parse_node",
    "parse_nodes",
    "sentinel_address",
]

"""The settings, validated as a whole, as frozen values.

A settings block is read once, before anything is built from it. Every fault is collected and begins
with the path of its setting; one ConfigurationError holds them all. Defaults and limits are written
here and nowhere else. The package imports ``policies``, ``codec`` and ``errors``. It never reads
Django's settings (``conf`` does), and never connects.
"""

from cachebackend.options.address_map import AddressMap
from cachebackend.options.cluster import ClusterAddress, parse_location
from cachebackend.options.faults import Faults
from cachebackend.options.host import host_text, is_host
from cachebackend.options.node_lists import change_faults
from cachebackend.options.project import ProjectOptions
from cachebackend.options.ring import RingOptions
from cachebackend.options.rules import Password, is_encodable
from cachebackend.options.sentinel import SENTINEL_SCHEME, SentinelAddress, sentinel_address
from cachebackend.options.url import NodeAddress, parse_node, parse_nodes
from cachebackend.options.writebehind import CLUSTER_PARTS, WriteBehindOptions

__all__ = [
    "CLUSTER_PARTS",
    "SENTINEL_SCHEME",
    "AddressMap",
    "ClusterAddress",
    "Faults",
    "NodeAddress",
    "Password",
    "ProjectOptions",
    "RingOptions",
    "SentinelAddress",
    "WriteBehindOptions",
    "change_faults",
    "host_text",
    "is_encodable",
    "is_host",
    "parse_location",
    "parse_node",
    "parse_nodes",
    "sentinel_address",
]

"""The options that list nodes beside ``LOCATION``: the other ring while a ring changes, and the gutter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cachebackend.options.cluster import ClusterAddress, parse_location
from cachebackend.options.faults import Faults
from cachebackend.options.url import NodeAddress

__all__ = ["NODE_LISTS", "NodeLists", "change_faults", "read_node_lists"]

#: The options that list the other ring while a ring changes.
_CHANGES = ("joining", "leaving")
#: All options that list nodes, beside ``LOCATION``.
NODE_LISTS = (*_CHANGES, "gutter")


class NodeLists(NamedTuple):
    """The options that list nodes beside ``LOCATION``, as far as they are given.

    Attributes:
        nodes: The nodes of ``joining``, ``leaving`` and ``gutter``, by the name of the option.
        cluster: The cluster of ``joining`` or ``leaving``.
        is_leaving: Whether the cluster is that of ``leaving``.
    """

    nodes: dict[str, tuple[NodeAddress, ...]]
    cluster: ClusterAddress | None
    is_leaving: bool


def read_node_lists(
    given: Mapping[str, object],
    nodes: tuple[NodeAddress, ...],
    cluster: ClusterAddress | None,
    faults: Faults,
) -> NodeLists:
    """Return the nodes of ``joining``, ``leaving`` and ``gutter``, as far as they are given.

    Faults are: both ``joining`` and ``leaving``, a change that changes nothing, and a gutter's node
    that is a node of a ring.

    Args:
        given: The options, by their names.
        nodes: The nodes of ``LOCATION``.
        cluster: The cluster of ``LOCATION``.
        faults: Where the faults are added.
    """
    parsed = {name: parse_location(urls, faults.below(name)) for name, urls in given.items()}
    lists = {name: listed for name, (listed, _) in parsed.items()}
    clusters = {name: other for name, (_, other) in parsed.items() if other is not None}
    if "gutter" in clusters:
        faults.add("gutter", "is a cluster; the gutter is for a ring of nodes")
    changes = {name: lists[name] for name in _CHANGES if lists.get(name) or name in clusters}
    if len(changes) > 1:
        faults.add("leaving", "cannot be set together with 'joining'; end one change of the ring first")
    for name, other_ring in changes.items():
        if cluster is not None and name in clusters and clusters[name].endpoint == cluster.endpoint:
            faults.add(name, "is the cluster that LOCATION has; leave it out")
        for text in change_faults(nodes, other_ring) if other_ring else ():
            faults.add(name, text)
    members = [node for ring in (nodes, *changes.values()) for node in ring]
    names, endpoints = {node.name for node in members}, {node.endpoint for node in members}
    for spare in lists.get("gutter", ()):
        if spare.name in names or spare.endpoint in endpoints:
            faults.add(
                "gutter", f"{spare.name!r} is a node of the ring; the gutter's nodes must be spare ones"
            )
    return NodeLists(lists, next(iter(clusters.values()), None), "leaving" in clusters)


def change_faults(nodes: Sequence[NodeAddress], other_ring: Sequence[NodeAddress]) -> list[str]:
    """Return why the ring of ``LOCATION`` cannot change to the other ring, or from it."""
    if _identities(nodes) == _identities(other_ring):
        return ["has the same nodes as LOCATION, so no key would move; leave it out"]
    names = {node.endpoint: node.name for node in nodes}
    return [
        f"has as {node.name!r} the server that LOCATION has as {names[node.endpoint]!r}; "
        "use one name for a server while the ring changes"
        for node in other_ring
        if names.get(node.endpoint, node.name) != node.name
    ]


def _identities(nodes: Sequence[NodeAddress]) -> set[tuple[str, float, str]]:
    return {(node.name, node.weight, node.endpoint) for node in nodes}

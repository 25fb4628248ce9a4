"""Clears of nodes: what the relay does if a node missed more keys than are recorded one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachebackend import protocol
from cachebackend.backend.keys import change_keys, is_tag_key, pattern_of_key
from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases
from cachebackend.invalidation import deletes

__all__ = ["clear_node", "clear_tags", "nodes_to_clear"]


def clear_node(alias: str, endpoint: str) -> bool:
    """Delete every key of a cache alias on one node; return whether the node confirmed it.

    Returns True if the alias has no such node: nothing is read from it any more.
    """
    cache = deletes.ring_cache_of(alias)
    if cache is None:
        return True
    client, is_confirmed = cache.client, True
    for nodes in _visits(client):
        named = [index for index in nodes if client.nodes[index].endpoint == endpoint]
        is_confirmed &= client.run(protocol.clear_missed(client.context, cache.pattern, named))
    return is_confirmed


def clear_tags() -> set[tuple[str, str]]:
    """Delete all tags of all ring caches; return the alias and endpoint of each node that did not confirm.

    An alias whose ``KEY_FUNCTION`` hides the key is left out: its keys are never cleared from a node,
    but remain pending one by one.
    """
    unconfirmed: set[tuple[str, str]] = set()
    for alias in ring_aliases():
        cache = deletes.ring_cache_of(alias)
        if cache is not None and cache.can_clear:
            client = cache.client
            for nodes in _visits(client):
                operation = protocol.delete_matching(client.context, cache.tag_pattern, nodes)
                failures = client.run(operation).failures
                unconfirmed.update((alias, client.nodes[index].endpoint) for index in failures)
    return unconfirmed


def _visits(client: RingClient) -> Iterator[Sequence[int]]:
    """Yield the nodes that may have keys, by index, as often as these must be visited to see every key."""
    for _ in range(max(ring.passes for ring in client.context.rings)):
        client.run(protocol.refresh_nodes(client.context))
        yield client.holders


def nodes_to_clear(alias: str, unconfirmed: set[bytes]) -> tuple[list[str], set[bytes]]:
    """Find the nodes that must be cleared, because they missed more keys than are recorded one by one.

    Args:
        alias: The cache alias.
        unconfirmed: The keys that a node did not confirm.

    Returns:
        The endpoints of those nodes, and the other keys, which remain pending one by one.
    """
    cache = deletes.ring_cache_of(alias)
    if cache is None or not unconfirmed:
        return [], unconfirmed
    context, nodes = cache.client.context, cache.client.nodes
    full = [index for index in range(len(nodes)) if context.missed.count(index) is None]
    counted = [index for index in range(len(nodes)) if index not in full]
    changes = change_keys(unconfirmed)
    plain = unconfirmed - changes
    single = {key for key in plain if any(context.missed.has_missed(node, key) for node in counted)}
    single |= {key for key in plain if pattern_of_key(key) is not None}  # each node has keys of it
    cleared = {key for key in plain - single if any(context.may_hold(node, key) for node in full)}
    if cleared and not any(map(is_tag_key, plain - cleared)):
        cleared |= changes  # every tag that they make wrong is on a node that is cleared
    endpoints = [
        nodes[index].endpoint
        for index in full
        if any(context.may_hold(index, key) for key in cleared - changes)
    ]
    return endpoints, unconfirmed - cleared

"""A change of nodes: how many keys it moves, and the settings of each of its deploys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from cachebackend.options import NodeAddress
from cachebackend.ring import SLOTS, Ring

__all__ = ["DEPLOYS", "Plan", "plan_change", "settings_text"]

#: For each deploy its purpose, the ring in its ``LOCATION``, and its options; a text names a ring.
DEPLOYS: tuple[tuple[str, str, dict[str, str | bool]], ...] = (
    ("deletes go to the new ring too", "OLD", {"joining": "NEW"}),
    ("a miss is filled from the old ring, under a lease", "NEW", {"leaving": "OLD"}),
    (
        "when the hit ratio has recovered: misses are no longer filled from the old ring",
        "NEW",
        {"leaving": "OLD", "warm": False},
    ),
    ("done; then `ring cleanup --yes`, unless the new ring is a cluster", "NEW", {}),
)


class Plan(NamedTuple):
    """How many keys a change of nodes moves.

    Attributes:
        moved: The share of the keys that get another server as their owner, 0 to 1.
        shares: The share of each node before and after the change, 0 to 1, by its name.
    """

    moved: float
    shares: dict[str, tuple[float, float]]


def plan_change(old: Sequence[NodeAddress], new: Sequence[NodeAddress]) -> Plan:
    """Return how many keys a change from the old nodes to the new ones moves."""
    old_ring, new_ring = (Ring([(node.name, node.weight) for node in nodes]) for nodes in (old, new))
    old_endpoints, new_endpoints = ([node.endpoint for node in nodes] for nodes in (old, new))
    moved = sum(
        old_endpoints[old_ring.owner_of_slot(slot)] != new_endpoints[new_ring.owner_of_slot(slot)]
        for slot in range(SLOTS)
    )
    now, then = (dict(zip(ring.names, ring.shares(), strict=True)) for ring in (old_ring, new_ring))
    shares = {name: (now.get(name, 0) / SLOTS, then.get(name, 0) / SLOTS) for name in [*now, *then]}
    return Plan(moved / SLOTS, shares)


def settings_text(alias: str, old: Sequence[str], new: Sequence[str]) -> str:
    """Return the settings of every deploy of a change, to paste below ``CACHES``.

    Args:
        alias: The cache alias.
        old: The URLs of the old ring, as ``LOCATION`` has them.
        new: The URLs of the new ring.
    """
    block = f"CACHES[{json.dumps(alias)}]"
    lines = ["# Paste below CACHES: these lines, and those of one deploy. Begin a deploy when every process"]
    lines.append("# of the deploy before the last one has ended.")
    if any("***" in url for url in (*old, *new)):
        lines.append("# Replace *** with user and password.")
    for name, urls in (("OLD", old), ("NEW", new)):
        lines += [f"{name} = [", *(f"    {json.dumps(url)}," for url in urls), "]"]
    lines.append(f'OPTIONS = {block}.get("OPTIONS", {{}})')
    for number, (title, location, options) in enumerate(DEPLOYS, 1):
        given = ", ".join(f'"{name}": {value}' for name, value in options.items())
        merged = f"OPTIONS | {{{given}}}" if given else "OPTIONS"
        lines += ["", f"# Deploy {number}: {title}"]
        lines.append(f'{block} |= {{"LOCATION": {location}, "OPTIONS": {merged}}}')
    return "\n".join(lines)

"""What a change of nodes would move, and the settings of its deploys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from cachebackend.options import NodeAddress
from cachebackend.ring import SLOTS, Ring

__all__ = ["DEPLOYS", "Plan", "plan_change", "settings_text"]

#: What each deploy is for; which ring is its ``LOCATION``; and its options, where a text names a ring.
DEPLOYS: tuple[tuple[str, str, dict[str, str | bool]], ...] = (
    ("deletes go to the ring that is to be entered, too", "OLD", {"joining": "NEW"}),
    ("a miss is warmed from the ring that was left, under a lease", "NEW", {"leaving": "OLD"}),
    (
        "when the hit ratio has recovered: nobody looks there any more",
        "NEW",
        {"leaving": "OLD", "warm": False},
    ),
    ("done; then `ring cleanup --yes`", "NEW", {}),
)


class Plan(NamedTuple):
    """What a change of nodes would move.

    Attributes:
        moved: Which part of the keys another server would own, 0 to 1.
        shares: Which part each node owns now, and then, by its name.
    """

    moved: float
    shares: dict[str, tuple[float, float]]


def plan_change(old: Sequence[NodeAddress], new: Sequence[NodeAddress]) -> Plan:
    """Return what a change from some nodes to others would move."""
    before, after = (Ring([(node.name, node.weight) for node in nodes]) for nodes in (old, new))
    left, entered = ([node.endpoint for node in nodes] for nodes in (old, new))
    moved = sum(left[before.owner_of_slot(s)] != entered[after.owner_of_slot(s)] for s in range(SLOTS))
    now, then = (dict(zip(ring.names, ring.shares(), strict=True)) for ring in (before, after))
    shares = {name: (now.get(name, 0) / SLOTS, then.get(name, 0) / SLOTS) for name in [*now, *then]}
    return Plan(moved / SLOTS, shares)


def settings_text(alias: str, old: Sequence[NodeAddress], new: Sequence[NodeAddress]) -> str:
    """Return the settings of every deploy of a change, to be pasted below ``CACHES``."""
    block = f"CACHES[{json.dumps(alias)}]"
    lines = ["# Below CACHES: these lines, and those of the deploy that it is. Begin one when every process"]
    lines.append("# of the last but one is gone.")
    if any("***" in node.setting for node in (*old, *new)):
        lines.append("# Put user and password back where *** stands.")
    for name, nodes in (("OLD", old), ("NEW", new)):
        lines += [f"{name} = [", *(f"    {json.dumps(node.setting)}," for node in nodes), "]"]
    lines.append(f'OPTIONS = {block}.get("OPTIONS", {{}})')
    for number, (title, location, options) in enumerate(DEPLOYS, 1):
        given = ", ".join(f'"{name}": {value}' for name, value in options.items())
        merged = f"OPTIONS | {{{given}}}" if given else "OPTIONS"
        lines += ["", f"# Deploy {number}: {title}"]
        lines.append(f'{block} |= {{"LOCATION": {location}, "OPTIONS": {merged}}}')
    return "\n".join(lines)

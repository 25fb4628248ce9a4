"""What is shown of each node of an alias: its state, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.errors import RingCacheError
from cachebackend.node.breaker import REPLAYING, UP
from cachebackend.ring import SLOTS

__all__ = ["node_rows"]


def node_rows(client: RingClient, owed: Sequence[int | str]) -> list[dict[str, Any]]:
    """Return what is known of each node: of the ring, of the one that is entered or left, and the gutter's.

    Args:
        client: The alias.
        owed: How many deletes each node is owed, or "all".
    """
    infos = client.run(protocol.node_infos(client.context, range(len(client.nodes))))
    rows = [
        _node(node.name, share, info)
        for node, share, info in zip(client.nodes, _shares(client), infos, strict=True)
    ]
    for at, row in enumerate(rows):
        row["owed"] = owed[at]
        row["state"] = _state(client, at, is_up=not row["error"], is_owed=bool(owed[at]))
    return rows


def _shares(client: RingClient) -> list[str]:
    """Return each node's share of the keys; of one that is not in the ring, what it is there for."""
    context = client.context
    others = "" if context.ring_change is None else "leaving" if context.ring_change.is_old else "joining"
    spare = () if context.gutter is None else context.gutter.nodes
    shares = [f"{share / SLOTS:.1%}" for share in client.ring.shares()]
    return shares + ["gutter" if at in spare else others for at in range(len(shares), len(client.nodes))]


def _node(name: str, share: str, info: dict[str, str] | RingCacheError) -> dict[str, Any]:
    known = {} if isinstance(info, RingCacheError) else info
    server, version = (
        ("Valkey", "valkey_version") if "valkey_version" in known else ("Redis", "redis_version")
    )
    keys = [value for field, value in known.items() if field.startswith("db") and "keys=" in value]
    return {
        "node": name,
        "share": share,
        "server": f"{server} {known[version]}" if known else "",
        "memory": known.get("used_memory_human", ""),
        "policy": known.get("maxmemory_policy", ""),
        "keys": sum(int(value.partition("keys=")[2].partition(",")[0]) for value in keys),
        "evicted": int(known.get("evicted_keys", 0)),
        "error": str(info) if isinstance(info, RingCacheError) else "",
    }


def _state(client: RingClient, at: int, *, is_up: bool, is_owed: bool) -> str:
    """Return a node's state: ejected or down: it does not answer; replaying: it is owed deletes; or up."""
    breaker = client.nodes[at].breaker
    if breaker is not None and breaker.state.state != UP:
        return breaker.state.state
    if not is_up:
        return "down"
    return REPLAYING if is_owed else UP

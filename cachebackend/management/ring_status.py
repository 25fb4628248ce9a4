"""``manage.py ring status``: the nodes, their states, and the deletes that each has missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cachebackend.client import RingClient
from cachebackend.management.report import Report, ReportCommand
from cachebackend.management.ring_doctor import lines_of
from cachebackend.management.usage_actions import clients_of
from cachebackend.monitoring import Fault, NodeFigures, ProcessFigures, node_figures, process_figures
from cachebackend.monitoring.cluster_slots import unserved_faults
from cachebackend.monitoring.faults import alias_scope, by_cause
from cachebackend.monitoring.node_faults import node_faults, others_than
from cachebackend.monitoring.nodes import refusal_faults, seen_by, states_with_replay
from cachebackend.monitoring.outbox import MAX_COUNTED_ROWS, PendingByNode, pending_by_node
from cachebackend.node.breaker import UP

__all__ = ["status_report"]

#: The columns of the table: the name of each, and its key in the JSON.
_COLUMNS = {
    "node": "node",
    "state": "state",
    "pending keys": "owed",
    "share": "share",
    "server": "server",
    "memory": "memory",
    "policy": "policy",
    "keys": "keys",
    "evicted": "evicted",
}


def status_report(command: ReportCommand, chosen: str | None) -> Report:
    """Print the nodes of an alias, or of every ring cache, and what is wrong with them.

    Args:
        command: Prints the text.
        chosen: The alias; None: all.
    """
    clients = dict(clients_of(None))  # an outbox row may wait for a dead node of any alias
    nodes = {alias: node_figures(client) for alias, client in clients.items()}
    pending, processes = _pending(command, clients, nodes), process_figures()
    aliases: dict[str, Any] = {}
    for alias, _ in clients_of(chosen):
        missed = [pending.missed[alias][node.index] for node in nodes[alias]]
        states = states_with_replay(nodes[alias], processes.replaying(alias))
        known = [None] * len(missed) if pending.errors else missed
        rows = aliases[alias] = [_row(*each) for each in zip(nodes[alias], states, known, strict=True)]
        _print_alias(command, alias, nodes[alias], rows)
    without_slots = {alias: _without_slots(client) for alias, client in clients_of(chosen)}
    for alias, names in without_slots.items():
        for name in names:
            command.say(
                f"{name}: has no slots in the cluster of {alias!r}, but perhaps keys that moved to it"
            )
    for using in pending.incomplete:
        command.say(
            f"database {using!r} has more than {MAX_COUNTED_ROWS:,} outbox rows: only the oldest "
            f"{MAX_COUNTED_ROWS:,} were counted, so more deletes are pending than shown here"
        )
    faults = _faults({alias: nodes[alias] for alias in aliases}, processes)
    for alias, client in clients_of(chosen):
        faults += unserved_faults(repr(alias), client.clusters, alias_scope(alias))
    for line in lines_of(faults):
        command.say(line if line.startswith(" ") else f"not well: {line}")
    is_well = not faults and all(row["state"] == UP for rows in aliases.values() for row in rows)
    data = {"aliases": aliases, "seen_by": seen_by(), "faults": [fault.message for fault in faults]}
    data |= {"incomplete": pending.incomplete, "without_slots": without_slots}
    return Report(data | {"well": is_well}, is_well)


def _without_slots(client: RingClient) -> list[str]:
    """Return the names of the servers that have no slots, as ``node_figures`` has found them.

    Keys of their first slots may be there already.
    """
    return [client.nodes[index].name for cluster in client.clusters for index in cluster.ring.empty]


def _faults(nodes: Mapping[str, Sequence[NodeFigures]], processes: ProcessFigures) -> list[Fault]:
    """Return what is wrong with nodes."""
    faults = [fault for alias, own in nodes.items() for fault in node_faults(alias, own, processes)]
    faults += [fault for alias, own in nodes.items() for fault in refusal_faults(alias, own)]
    own = [each for each in processes.faults if any(alias_scope(alias) <= each.scope for alias in nodes)]
    return by_cause([*faults, *others_than(faults, own)])


def _print_alias(
    command: ReportCommand, alias: str, nodes: Sequence[NodeFigures], rows: Sequence[Mapping[str, Any]]
) -> None:
    command.say(f"{alias}: {len(rows)} nodes, as {seen_by()} sees them")
    command.print_table(_COLUMNS, [_cells(row) for row in rows])
    for node in nodes:
        if node.slots is not None:
            command.say(f"{node.name}: {node.slots:,} slots, replicas: {', '.join(node.replicas) or 'none'}")


def _pending(
    command: ReportCommand, clients: Mapping[str, RingClient], nodes: Mapping[str, Sequence[NodeFigures]]
) -> PendingByNode:
    is_up = {alias: [True] * len(client.nodes) for alias, client in clients.items()}
    for alias, figures in nodes.items():
        for node in figures:
            is_up[alias][node.index] = node.is_up
    pending = pending_by_node(clients, is_up)
    for using, error in pending.errors.items():
        command.say(
            f"the pending deletes of database {using!r} are unknown: its outbox cannot be read: {error}"
        )
    return pending


def _cells(row: Mapping[str, Any]) -> list[object]:
    """Return the cells of a node's row of ``status``; what is not known is not an empty cell."""
    return ["unknown" if row[key] in {None, ""} else row[key] for key in _COLUMNS.values()]


def _row(node: NodeFigures, state: str, pending: int | str | None) -> dict[str, Any]:
    """Return a node's row of ``status``; its keys are those of the JSON."""
    return {
        "node": node.name,
        "share": f"{node.share:.1%}" if node.role == "ring" else node.role,
        "server": node.server,
        "memory": _memory(node),
        "policy": node.info.get("maxmemory_policy", ""),
        "keys": node.keys if node.info else None,
        "evicted": node.evicted,
        "error": node.error,
        "address": node.address,
        "owed": pending,
        "state": state,
        **({} if node.slots is None else {"slots": node.slots, "replicas": list(node.replicas)}),
    }


def _memory(node: NodeFigures) -> str:
    """Return the memory of a node, and how much of its limit that is, so short that the table has room."""
    used, percent = node.info.get("used_memory_human", ""), node.memory_percent
    return used if percent is None else f"{used} {percent:.0f}%"

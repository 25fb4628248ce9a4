"""Faults of nodes: which one is down, for which processes, and what to do by the kind of its error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cachebackend.monitoring.faults import Fault, node_scope
from cachebackend.monitoring.formatting import duration
from cachebackend.monitoring.node_views import has_noticed, users_of, view_of
from cachebackend.monitoring.nodes import NodeFigures, seen_by
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.node.breaker import REPLAYING
from cachebackend.telemetry.processes import Process
from cachebackend.telemetry.this_process import process_id

__all__ = ["down_text", "node_faults", "others_than", "way_out"]

#: What to do about an error that contains these words; the first ones that it contains count.
_WAYS_OUT = (
    (
        "refused the user or password",
        "Correct the user and password: those of the node, or those of its URL in the settings.",
    ),
    ("not run scripts", "Grant its user `+@scripting`."),
    ("maxclients", "Raise its `maxclients`, or find what opens the connections: `CLIENT LIST`."),
    ("no such database", "Correct the number of the database in its URL."),
    ("refused the connection", "Change what the error names, in the configuration of {address}."),
    ("NOPERM", "Grant its user the command that the error names: `ACL SETUSER`."),
    ("Connection refused", "Start the server at {address}: nothing listens there."),
    (
        "did not answer within",
        "Look at the machine of {address} and the network to it; restart the server if it hangs.",
    ),
    ("certificate", "Renew the certificate of {address}, or correct the one that its URL trusts."),
    ("cannot be resolved", "Correct the host name in its URL, or repair the name service."),
    ("does not speak Redis' protocol", "Correct the port in its URL."),
    ("cannot serve: LOADING", "Wait until {address} has loaded its file."),
    ("cannot serve", "Repair what the error of {address} names."),
    ("closed the connection", "Read the log of the server at {address}, and start it if it does not run."),
    (
        "the cluster has no slots",
        "Give them to its servers, with `valkey-cli --cluster create` or the same of `redis-cli`.",
    ),
    ("is not reachable", "Repair the network to {address}, or start its machine."),
)
#: The kinds of faults that a node has, as the process that shows them sees it.
_OF_NODES = {
    FaultKind.NODE_DOWN,
    FaultKind.QUEUE_NODE_DOWN,
    FaultKind.NODE_REPLAYING,
    FaultKind.NODE_PARTLY_REACHED,
}


def node_faults(alias: str, nodes: Sequence[NodeFigures], processes: ProcessFigures) -> Iterator[Fault]:
    """Yield the fault of each node that this process does not use.

    A node that other processes use is not down: this process has not tried it again since it is back, or
    only its own network to the node is broken.
    """
    for node in nodes:
        where = f"Node {node.name} ({node.address}) of {alias!r}"
        if node.is_up:
            continue
        if node.state == REPLAYING:
            text = f"{where} answers again; it serves reads when it has got the deletes that it missed."
            yield Fault(FaultKind.NODE_REPLAYING, text, node.since, scope=node_scope(alias, node.name))
        elif users := _other_users(alias, node, processes):
            again = "" if node.probe_in is None else f", which tries it again in {duration(node.probe_in)}"
            others = "another process uses it" if len(users) == 1 else f"{len(users)} other processes use it"
            message = f"{where} is not reached by {seen_by()}{again}; {others}: {node.error}"
            yield Fault(
                FaultKind.NODE_PARTLY_REACHED, message, node.since, scope=node_scope(alias, node.name)
            )
        else:
            text = down_text(where, node.name, node.error)
            advice = way_out(node.error, node.address)
            yield Fault(FaultKind.NODE_DOWN, text, node.since, advice, scope=node_scope(alias, node.name))


def others_than(faults: Sequence[Fault], of_processes: Iterable[Fault]) -> list[Fault]:
    """Return the faults of processes that concern no node with a fault of its own: one fault says it."""
    known = [fault.scope for fault in faults if fault.kind in _OF_NODES]
    return [
        each
        for each in of_processes
        if each.kind not in _OF_NODES or not any(each.scope <= scope for scope in known)
    ]


def down_text(where: str, name: str, error: str) -> str:
    """Return that a node is down, and why: its error, without its name once more."""
    prefix = f"node {name!r} "
    return f"{where} is down: {f'it {error.removeprefix(prefix)}' if error.startswith(prefix) else error}"


def way_out(error: str, address: str) -> str:
    """Return what to do about a node with an error; empty: what the runbook says."""
    found = (text for words, text in _WAYS_OUT if words in error)
    return next(found, "").format(address=address)


def _other_users(alias: str, node: NodeFigures, processes: ProcessFigures) -> list[Process]:
    """Return the other processes that use a node: they do not report it as down, and had the time to."""
    if node.since is None:
        return []
    return [
        each
        for each in users_of(processes.processes or (), alias, node.name, processes.now)
        if each.id != process_id()
        and view_of(each, alias, node.name) is None
        and has_noticed(each, node.since, processes.now)
    ]

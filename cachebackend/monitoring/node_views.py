"""How the processes of the site see a node: which of them use it, and which do not reach it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachebackend.monitoring.faults import Fault, node_scope
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.node.breaker import REPLAYING
from cachebackend.telemetry.agreed_settings import QUEUE
from cachebackend.telemetry.processes import NodeView, Process

__all__ = ["has_noticed", "labels", "users_of", "view_faults", "view_of"]

#: Seconds after which a process has noticed that a node is down, and has reported that.
NOTICED_SECONDS = 7.0
#: Seconds after which a process has tried a node again, so that it was not only restarted.
PARTLY_SECONDS = 10.0
#: The most processes that a sentence names.
MAX_NAMED = 3


def labels(processes: Sequence[Process]) -> str:
    """Return the names of some processes, for a sentence."""
    names = ", ".join(process.label for process in processes[:MAX_NAMED])
    more = len(processes) - MAX_NAMED
    return f"{names} and {more} more" if more > 0 else names


def view_of(process: Process, alias: str, node: str) -> NodeView | None:
    """Return how a process sees a node that it does not use; None: it uses it, or does not know it."""
    return next((view for view in process.views if (view.alias, view.node) == (alias, node)), None)


def users_of(processes: Sequence[Process], alias: str, node: str, now: float) -> list[Process]:
    """Return the processes that have a node: those that use it, and those that do not reach it.

    A process that has only begun, such as a command, has not tried the node yet. It counts as soon as it
    has, or had the time to.

    Args:
        processes: The processes of the site.
        alias: The alias of the node.
        node: Its name.
        now: The time, in seconds since 1970.
    """
    return [
        each
        for each in processes
        if view_of(each, alias, node) is not None
        or (any(of == alias for of, _ in each.names) and has_noticed(each, each.started, now))
    ]


def has_noticed(process: Process, since: float, now: float) -> bool:
    """Return whether a process that reports no node as down would do so, if it were down since a time."""
    return process.age < now - max(since, process.started) - NOTICED_SECONDS


def view_faults(processes: Sequence[Process], now: float) -> Iterator[Fault]:
    """Yield a fault for each node that some processes, or all of them, do not reach.

    The process that asks may reach it nevertheless: a command may have been given another password. While
    some reach it, a process that has only not tried it again yet does not count: the node was restarted. A
    node to which a process replays deletes answers that process.
    """
    for alias, node in dict.fromkeys((view.alias, view.node) for each in processes for view in each.views):
        users = users_of(processes, alias, node, now)
        views = [(each, view) for each in users if (view := view_of(each, alias, node)) is not None]
        away = [(each, view) for each, view in views if view.state != REPLAYING]
        is_partly = len(away) < len(users)
        seen = [each for each in away if not is_partly or _has_tried(each[1], now)]
        subject = f"Queue node {node}" if alias == QUEUE else f"Node {node} of {alias!r}"
        scope = node_scope(alias, node)
        if seen:
            by = f"any of the {len(users)} processes" if len(users) > 1 else "the only process that uses it"
            by = f"{len(seen)} of {len(users)} processes" if is_partly else by
            names = labels([process for process, _ in seen])
            message = f"{subject} is not reached by {by} ({names}): {seen[0][1].error}"
            since = min((view.since for _, view in seen if view.since is not None), default=None)
            yield Fault(FaultKind.NODE_PARTLY_REACHED, message, since, scope=scope)
        elif not away:
            names = labels([process for process, _ in views])
            message = f"{subject} answers again; it gets the missed deletes before it serves {names}."
            yield Fault(FaultKind.NODE_REPLAYING, message, scope=scope)


def _has_tried(view: NodeView, now: float) -> bool:
    """Return whether a process has tried a node again since it ejected it."""
    return view.since is None or now - view.since > PARTLY_SECONDS

"""The reports of processes: which processes use a node, and what each says about itself.

Each process reports to every node that it knows. The keys depend on the site alone, not on a setting in
which two processes may differ, so processes with different settings see each other on each server that
both use. The time of a report is by the node's clock. A process that stops reporting is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from cachebackend.effects import Operation, Request, Script, Send
from cachebackend.errors import RingCacheError
from cachebackend.protocol.telemetry.node_info import seconds_of
from cachebackend.replies import integer

__all__ = [
    "KEEP_PROCESS_SECONDS",
    "NodePresences",
    "Presence",
    "processes_key",
    "read_processes",
    "report_process",
    "withdraw_process",
]

_REPORT = Script(__package__, "report_process", reply=integer)
#: Seconds after which a process that does not report is removed: four times the pause between two reports.
KEEP_PROCESS_SECONDS = 20
#: The most processes of a node; a process counts once for each alias.
MAX_PRESENCES = 4000


class Presence(NamedTuple):
    """A process that uses a node.

    Attributes:
        process: The id of the process.
        alias: The cache alias by which it uses the node; "WRITE_BEHIND" for a queue node.
        name: The name that it has for the node.
        age: Seconds since its last report, by the node's clock.
        at: The time of its last report, in seconds since 1970 by the node's clock.
    """

    process: str
    alias: str
    name: str
    age: float
    at: float


class NodePresences(NamedTuple):
    """What a node knows of processes.

    Attributes:
        presences: Those that reported recently.
        time: The time of the node's clock, in seconds since 1970.
        age: Seconds since the node began to store reports; None if it stores none.
    """

    presences: list[Presence]
    time: float
    age: float | None


def report_process(
    site: str, alias: str, names: Mapping[int, str], process: str, report: bytes
) -> Operation[None]:
    """Store the report of a process on nodes of a client.

    Args:
        site: Identifies the site among those that share nodes.
        alias: The alias of the client.
        names: The nodes, by index, each with the name that the process has for it.
        process: The id of the process.
        report: What it says about itself.
    """
    limits = b"%d" % KEEP_PROCESS_SECONDS, b"%d" % MAX_PRESENCES
    yield Send(
        [
            (node, _REPORT.call(_keys(site), *limits, _member(process, alias, name), report))
            for node, name in names.items()
        ]
    )


def withdraw_process(site: str, alias: str, names: Mapping[int, str], process: str) -> Operation[None]:
    """Remove a process that ends from the nodes to which it reported."""
    presences, reports = _keys(site)
    yield Send(
        [
            (node, command)
            for node, name in names.items()
            for command in (
                (b"ZREM", presences, _member(process, alias, name)),
                (b"HDEL", reports, process),
            )
        ]
    )


def read_processes(
    site: str, nodes: Iterable[int]
) -> Operation[tuple[list[NodePresences | RingCacheError], dict[str, tuple[bytes, float]]]]:
    """Return for each node which processes use it; and the last report of each process, with its time.

    The report is that which the process sent last, from one of the nodes that have it. The time of a report
    is by the clock of the node from which it is.
    """
    presences, reports = _keys(site)
    indices = list(nodes)
    requests: list[Request] = []
    for node in indices:
        requests += [
            (node, (b"TIME",)),
            (node, (b"ZRANGE", presences, b"0", b"-1", b"WITHSCORES")),
            (node, (b"HGET", reports, b"created")),
        ]
    replies = yield Send(requests)
    found = [_presences(*replies[at : at + 3]) for at in range(0, len(replies), 3)]
    freshest: dict[str, tuple[float, int, float]] = {}
    for node, answer in zip(indices, found, strict=True):
        if not isinstance(answer, RingCacheError):
            for each in answer.presences:
                freshest[each.process] = min(
                    freshest.get(each.process, (float("inf"), 0, 0.0)), (each.age, node, each.at)
                )
    if not freshest:
        return found, {}
    stored = yield Send([(node, (b"HGET", reports, each)) for each, (_, node, _) in freshest.items()])
    return found, {
        each: (report, at)
        for (each, (_, _, at)), report in zip(freshest.items(), stored, strict=True)
        if isinstance(report, bytes)
    }


def _presences(time: object, members: object, created: object) -> NodePresences | RingCacheError:
    for reply in (time, members, created):
        if isinstance(reply, RingCacheError):
            return reply
    now = seconds_of(time)
    assert isinstance(now, float)  # noqa: S101  # errors are returned above
    assert isinstance(members, list)  # noqa: S101  # its shape is checked
    presences = []
    for member, score in zip(members[::2], members[1::2], strict=True):
        process, _, rest = member.decode(errors="replace").partition(" ")
        alias, _, name = rest.partition(" ")
        at = float(score) / 1000
        if name and abs(now - at) <= KEEP_PROCESS_SECONDS:  # one in the future: the node's clock was set back
            presences.append(Presence(process, unquote(alias), name, max(now - at, 0.0), at))
    since = _number(created) / 1000
    return NodePresences(presences, now, now - since if since else None)


def _member(process: str, alias: str, name: str) -> str:
    return f"{process} {quote(alias)} {name}"


def _number(text: object) -> int:
    """Return the number of a reply; 0 if it is none."""
    return int(text) if isinstance(text, bytes) and text.isdigit() and len(text) < 19 else 0


def processes_key(site: str) -> bytes:
    """Return how the keys of a site begin; in a cluster both are in the slot of this key."""
    return f"ringcache:{{processes:{site}}}".encode()


def _keys(site: str) -> tuple[bytes, bytes]:
    """Return the keys of the presences and of the reports."""
    return processes_key(site) + b":seen", processes_key(site) + b":reports"

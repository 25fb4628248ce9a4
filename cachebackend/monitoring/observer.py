"""Sees what has changed since the last event: nodes that are away or restarted, settings, versions, deploys.

The states are those that all processes report, so every process that looks sees the same. The relay, the
pages and the metrics look, each process at most every few seconds. Pages and metrics know the faults too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.client.queue import QueueClient
from cachebackend.clock import SYSTEM_CLOCK, RateLimit
from cachebackend.conf import has_write_behind
from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring.events import State, record_states
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.formatting import duration, listed, moment
from cachebackend.monitoring.node_views import users_of, view_of
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.agreed_settings import QUEUE
from cachebackend.telemetry.processes import Process, read_processes, ring_clients
from cachebackend.writebehind.queue import monitoring_queue

__all__ = ["cluster_states", "deploy_states", "fault_states", "node_states", "observe", "settings_states"]

logger = logging.getLogger("cachebackend")
#: Seconds between two looks of a process.
INTERVAL = 10.0
#: The processes of a deploy start within this number of seconds; those that are renewed one by one do not.
DEPLOY_SECONDS = 120.0
#: A server that answers as a node for the first time, and runs for longer, was not restarted: a replica was
#: promoted, or the address leads to another server.
FAILOVER_UPTIME_SECONDS = 120
#: The kinds of processes that are deployed.
_DEPLOYED = ("web", "worker")
#: The faults whose beginnings and ends are events. The others have events of their own, or last for moments.
_FAULTS = (
    FaultKind.NO_WORKER,
    FaultKind.NO_BEAT,
    FaultKind.OUTBOX_UNREADABLE,
    FaultKind.QUEUE_NODE_DISK,
    FaultKind.QUEUE_NODE_FULL,
    FaultKind.PARTITION_STOPPED,
    FaultKind.PARTITION_BLOCKED,
    FaultKind.WRITES_PARKED,
    FaultKind.WRITES_DROPPED,
    FaultKind.WRITES_REFUSED,
)
_looks = RateLimit(SYSTEM_CLOCK, INTERVAL)
#: The database that does not answer this process; None: every one answers. It stores no event meanwhile.
_outage: Fault | None = None


def observe(faults: Sequence[Fault] | None = None) -> None:
    """Store what has changed, if this process has not looked for a while. Never raises.

    Args:
        faults: The faults of the site, the consequences below their causes; None: they are not known.
    """
    if not _looks.allows():
        return
    try:
        states = [] if faults is None else list(fault_states(faults))
        if faults is not None and _outage is not None:  # do not wait for it once more
            return
        read = read_processes()
        if not read.node_ages:  # no node answered, so nothing is known
            return
        states += [*settings_states(read.found), *deploy_states(read.found, SYSTEM_CLOCK.now())]
        for alias, client in _clients():
            states += node_states(alias, client, read.found)
            states += cluster_states(alias, client)
        record_states(states)
    except Exception as error:
        raise_interrupt(error)
        logger.exception("the timeline could not be written")


def _clients() -> Iterator[tuple[str, RingClient | QueueClient]]:
    yield from ring_clients()
    if has_write_behind():
        yield QUEUE, monitoring_queue()


def _servers(client: RingClient | QueueClient) -> dict[str, int]:
    """Return the index of a node on each server, by the server's name; of a cluster those that own slots."""
    if isinstance(client, RingClient):
        return {client.nodes[index].name: index for index in client.indexes}
    return {name: indexes[0] for name, indexes in client.servers().items()}


def node_states(
    alias: str, client: RingClient | QueueClient, processes: Sequence[Process]
) -> Iterator[State]:
    """Yield for each node how many processes do not use it, and which run of the server answers."""
    servers = _servers(client)
    infos = client.run(protocol.telemetry.node_infos(client.context, list(servers.values())))
    now = SYSTEM_CLOCK.now()
    for server, info in zip(servers, infos, strict=True):
        name = f"{server} of {alias!r}"
        users = users_of(processes, alias, server, now)
        views = [view for each in users if (view := view_of(each, alias, server)) is not None]
        if not views:
            yield State("node", f"node {name}", "used", f"Node {name} is back: all processes use it.")
        elif len(views) < len(users):
            text = f"Node {name} is down for {len(views)} of {len(users)} processes: {views[0].error}"
            yield State("node", f"node {name}", "partly used", text)
        else:
            text = f"Node {name} is down: {views[0].error}"
            yield State("node", f"node {name}", "away", text)
        if isinstance(info, dict) and (run := info.get("run_id")):
            yield State("start", f"start of {name}", run, _start_text(name, info))


def cluster_states(alias: str, client: RingClient | QueueClient) -> Iterator[State]:
    """Yield which servers have the slots of a cluster: others after a failover, also after a planned one."""
    if client.cluster is None or all(client.nodes[index].is_ejected for index in _servers(client).values()):
        return
    client.cluster.try_reload()
    if servers := sorted(_servers(client)):
        digest = blake2b(" ".join(servers).encode(), digest_size=16).hexdigest()
        text = f"The slots of {alias!r} are served by {listed(servers)} now."
        yield State("node", f"servers of {alias!r}", digest, text)


def _start_text(name: str, info: Mapping[str, str]) -> str:
    """Return what happened to a node of which another run of a server answers."""
    uptime = protocol.telemetry.number_of(info, "uptime_in_seconds")
    if uptime is None or uptime <= FAILOVER_UPTIME_SECONDS:
        return f"Node {name} was restarted."
    return f"Another server answers as node {name}, which has run for {duration(uptime)}: a failover."


def settings_states(processes: Sequence[Process]) -> Iterator[State]:
    """Yield the settings and the version that most processes have."""
    for path in dict.fromkeys(path for process in processes for path in process.settings):
        known = [process.settings[path] for process in processes if path in process.settings]
        usual, _ = Counter(setting.digest for setting in known).most_common(1)[0]
        text = next(setting.text for setting in known if setting.digest == usual)
        yield State("settings", f"setting {path}", usual, f"{path} is {text} in most processes now.")
    if processes:
        version, _ = Counter(process.version for process in processes).most_common(1)[0]
        yield State("deploy", "version", version, f"Most processes run django-ringcache {version} now.")


def deploy_states(processes: Sequence[Process], now: float) -> Iterator[State]:
    """Yield when all processes of a kind were started, if that was together, and lately.

    Those that are left when an older one ends were started together long before.
    """
    for kind in _DEPLOYED:
        starts = [process.started for process in processes if kind in process.kinds]
        if starts and max(starts) - min(starts) <= DEPLOY_SECONDS and now - max(starts) <= 2 * DEPLOY_SECONDS:
            text = f"All {len(starts)} {kind} processes were started again."
            yield State("deploy", f"start of {kind} processes", f"{min(starts):.0f}", text, _is_later)


def fault_states(faults: Sequence[Fault]) -> Iterator[State]:
    """Yield which faults there are, and the last outage of a database once it is over.

    While a database or a queue node does not answer, it is not known whether other faults last.
    """
    global _outage  # noqa: PLW0603  # one for the whole process
    found = {each.kind: each for fault in reversed(faults) for each in (fault, *fault.consequences)}
    if FaultKind.DATABASE_DOWN in found:
        _outage = _outage or found[FaultKind.DATABASE_DOWN]
        return
    outage, _outage = _outage, None
    since = "" if outage is None or outage.since is None else f", from {moment(outage.since)} until now"
    text = "" if outage is None else f"Over: {outage.message}{since}."
    began = 0.0 if outage is None else outage.since or SYSTEM_CLOCK.now()
    yield State("fault", "outage of a database", f"{began:.0f}", text, _is_later)
    for kind in _FAULTS:
        fault = found.get(kind)
        if fault is not None:
            yield State("fault", f"fault {kind}", "yes", fault.message)
        elif FaultKind.QUEUE_NODE_DOWN not in found:
            yield State("fault", f"fault {kind}", "no", f"Over: {kind}.")


def _is_later(before: str, now: str) -> bool:
    """Return whether processes were started since the last deploy, which the clocks of nodes may shift."""
    try:
        return float(now) > float(before) + DEPLOY_SECONDS
    except ValueError as error:
        raise_interrupt(error)
        return True

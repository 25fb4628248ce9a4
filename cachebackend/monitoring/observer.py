"""Sees what has changed since the last event: nodes that are away or restarted, settings, versions, deploys.

The states are those that all processes report, so every process that looks sees the same. The relay and the
page look, each process at most every few seconds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.client import QueueClient, RingClient
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.conf import ring_aliases, write_behind_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring.events import State, record_states
from cachebackend.telemetry.agreed_settings import QUEUE
from cachebackend.telemetry.processes import Process, read_processes
from cachebackend.writebehind.queue import monitoring_queue

__all__ = ["deploy_states", "node_states", "observe", "settings_states"]

logger = logging.getLogger("cachebackend")
#: Seconds between two looks of a process.
INTERVAL = 10.0
#: The processes of a deploy start within this number of seconds; those that are renewed one by one do not.
DEPLOY_SECONDS = 120.0
#: The kinds of processes that are deployed.
_DEPLOYED = ("web", "worker")
_next_look = 0.0


def observe() -> None:
    """Store what has changed, if this process has not looked for a while. Never raises."""
    global _next_look  # noqa: PLW0603  # one for the whole process
    now = SYSTEM_CLOCK.monotonic()
    if now < _next_look:
        return
    _next_look = now + INTERVAL
    try:
        read = read_processes()
        if not read.node_ages:  # no node answered, so nothing is known
            return
        states = [*settings_states(read.found), *deploy_states(read.found)]
        for alias, client in _clients():
            states += node_states(alias, client, read.found)
        record_states(states)
    except Exception as error:
        raise_interrupt(error)
        logger.exception("the timeline could not be written")


def _clients() -> Iterator[tuple[str, RingClient | QueueClient]]:
    for alias in ring_aliases():
        yield alias, ring_cache(alias).client
    if write_behind_options().is_on:
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
    infos = client.run(protocol.node_infos(client.context, list(servers.values())))
    users = sum(any(of == alias for of, _ in process.names) for process in processes)
    for server, info in zip(servers, infos, strict=True):
        name = f"{server} of {alias!r}"
        views = [
            view
            for process in processes
            for view in process.views
            if (view.alias, view.node) == (alias, server)
        ]
        if not views:
            yield State("node", f"node {name}", "used", f"Node {name} is back: all processes use it.")
        elif len(views) < users:
            text = f"Node {name} does not answer {len(views)} of {users} processes: {views[0].error}"
            yield State("node", f"node {name}", "partly used", text)
        else:
            text = f"Node {name} does not answer: {views[0].error}"
            yield State("node", f"node {name}", "away", text)
        if isinstance(info, dict) and (run := info.get("run_id")):
            yield State("start", f"start of {name}", run, f"Node {name} was restarted.")


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


def deploy_states(processes: Sequence[Process]) -> Iterator[State]:
    """Yield when all processes of a kind were started, if they were started together."""
    for kind in _DEPLOYED:
        starts = [process.started for process in processes if kind in process.kinds]
        if starts and max(starts) - min(starts) <= DEPLOY_SECONDS:
            text = f"All {len(starts)} {kind} processes were started again."
            yield State("deploy", f"start of {kind} processes", f"{min(starts):.0f}", text, _is_later)


def _is_later(before: str, now: str) -> bool:
    """Return whether processes were started since the last deploy, which the clocks of nodes may shift."""
    try:
        return float(now) > float(before) + DEPLOY_SECONDS
    except ValueError as error:
        raise_interrupt(error)
        return True

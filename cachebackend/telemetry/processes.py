"""The processes of the site: each reports to every node that it uses, and reads the reports of all.

A report is JSON of limited size.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import getpid
from statistics import median
from typing import Any

from cachebackend import protocol
from cachebackend.backend.aliases import ring_cache
from cachebackend.backend.test_prefix import queue_options
from cachebackend.client import RingClient
from cachebackend.client.queue import QueueClient
from cachebackend.conf import has_write_behind, ring_aliases
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.registry import queue_client
from cachebackend.telemetry import this_process
from cachebackend.telemetry.agreed_settings import QUEUE, agreed_settings, site_name
from cachebackend.telemetry.process_reports import NodeView, Process, read_report

__all__ = [
    "NodeView",
    "Process",
    "Processes",
    "nodes_away",
    "read_processes",
    "report_this_process",
    "ring_clients",
    "withdraw_this_process",
]

logger = logging.getLogger("cachebackend")
#: The most bytes of a report. One that is longer is sent without what the process does now.
MAX_REPORT_BYTES = 16_384
#: Seconds after which a process that does not report has probably ended: two reports are missing.
SILENT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of the site.

    Attributes:
        found: The processes, this one included; those that started first come first.
        node_ages: For each alias and node that answered, for how many seconds it stores reports.
        endpoints: Their servers.
        errors: For each alias and node that did not answer, its error.
        silent: The processes that reported lately and do not any more: they were killed, or hang.
    """

    found: list[Process]
    node_ages: Mapping[tuple[str, str], float] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], str] = field(default_factory=dict)
    errors: Mapping[tuple[str, str], RingCacheError] = field(default_factory=dict)
    silent: Sequence[Process] = ()


def report_this_process() -> None:
    """Report this process to every node that it uses, in one round trip for each alias; never raises."""
    try:
        report = _report()
        for alias, client in _clients():
            names = _names(client)
            client.run(
                protocol.telemetry.report_process(
                    site_name(), alias, names, this_process.process_id(), report
                )
            )
    except Exception as error:
        raise_interrupt(error)
        logger.exception("this process could not report itself")


def nodes_away() -> frozenset[tuple[str, str]]:
    """Return the alias and the name of each node that this process does not use now; never raises.

    Starts probes that are due, and sends nothing itself. So an idle process notices that a node is back.
    """
    try:
        return frozenset(
            (alias, node.name) for alias, client in _clients() for node in client.nodes if node.is_ejected
        )
    except Exception as error:  # noqa: BLE001  # the report logs it
        raise_interrupt(error)
        return frozenset()


def withdraw_this_process() -> None:
    """Remove the report of this process, which ends; never raises."""
    try:
        for alias, client in _clients():
            names = _names(client)
            client.run(
                protocol.telemetry.withdraw_process(site_name(), alias, names, this_process.process_id())
            )
    except Exception as error:
        raise_interrupt(error)
        logger.exception("this process could not remove its report")


def read_processes() -> Processes:
    """Return the processes that reported in the last seconds, and this one."""
    errors: dict[tuple[str, str], RingCacheError] = {}
    ages: dict[tuple[str, str], float] = {}
    endpoints: dict[tuple[str, str], str] = {}
    times: list[float] = []
    names: dict[str, dict[tuple[str, str], str]] = {}
    reports: dict[str, tuple[bytes, float, float]] = {}
    for alias, client in _clients():
        own_names = _names(client)
        found, stored = client.run(protocol.telemetry.read_processes(site_name(), own_names))
        seen: dict[str, float] = {}
        for (node, name), answer in zip(own_names.items(), found, strict=True):
            if isinstance(answer, RingCacheError):
                errors[alias, name] = answer
                continue
            ages[alias, name] = answer.age or 0.0
            endpoints[alias, name] = client.nodes[node].endpoint
            times.append(answer.time)
            for each in answer.presences:
                seen[each.process] = min(each.age, seen.get(each.process, each.age))
                if each.alias == alias:
                    names.setdefault(each.process, {})[alias, name] = each.name
        for process, (report, at) in stored.items():
            if process not in reports or seen[process] < reports[process][2]:
                reports[process] = (report, at, seen[process])
    own = this_process.process_id()
    if own not in reports:
        reports[own] = (_report(), median(times) if times else time.time(), 0.0)
    read = (read_report(each, *reports[each], names.get(each, {})) for each in reports)
    known = sorted(filter(None, read), key=lambda each: each.started)
    silent = [each for each in known if each.age > SILENT_SECONDS and each.id != own]
    present = [each for each in known if each not in silent]
    return Processes(present, ages, endpoints, errors, silent)


def ring_clients() -> Iterator[tuple[str, RingClient]]:
    """Yield the clients of the ring caches, each with its alias; not those whose settings have faults."""
    for alias in ring_aliases():
        try:
            client = ring_cache(alias).client
        except ConfigurationError:
            continue  # its users and the checks report its faults
        yield alias, client


def _clients() -> Iterator[tuple[str, RingClient | QueueClient]]:
    """Yield the clients of all nodes that this process uses, each with its alias."""
    yield from ring_clients()
    if has_write_behind():
        yield QUEUE, queue_client(queue_options())


def _names(client: RingClient | QueueClient) -> dict[int, str]:
    """Return the nodes to which a process reports, by index, with its names for them.

    A cluster has one shard for the key, to which every node sends the command. Processes may have different
    names for a shard, so all of them use one.
    """
    if client.cluster is not None:
        return {client.ring.owner(protocol.telemetry.processes_key(site_name())): "cluster"}
    return {index: node.name for index, node in enumerate(client.nodes)}


def _report() -> bytes:
    base = {
        "kind": this_process.kind(),
        "host": this_process.host(),
        "pid": getpid(),
        "command": this_process.command(),
        "version": _version(),
        "started": this_process.started(),
        "settings": agreed_settings(),
    }
    doing = {"views": _views(), "facts": this_process.facts()}
    text = json.dumps(base | doing | {"clock": time.time()}, default=str).encode()
    if len(text) > MAX_REPORT_BYTES:
        text = json.dumps(base | {"clock": time.time()}).encode()
    return text


@cache
def _version() -> str:
    """Return the version when it is first asked for: an upgrade replaces files, not the code that runs."""
    try:
        return version("django-ringcache")
    except PackageNotFoundError:
        return ""  # it is run from a checkout


def _views() -> list[dict[str, Any]]:
    views = []
    for alias, client in _clients():
        # The parts of a queue on a cluster share the breaker of their server
        for breaker in dict.fromkeys(node.breaker for node in client.nodes):
            if breaker is not None and breaker.is_open:
                state = breaker.state
                views.append(
                    {
                        "alias": alias,
                        "node": state.name,
                        "state": state.state,
                        "since": state.since,
                        "probe_in": breaker.seconds_to_probe,
                        "error": state.error[:300],
                    }
                )
    return views

"""The processes of the site: which differ in settings that must agree, and whose clock is wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from statistics import median
from typing import NamedTuple

from django.conf import settings

from cachebackend.monitoring.faults import MAX_CLOCK_SKEW_SECONDS, Fault, database_scope, node_scope
from cachebackend.monitoring.formatting import duration
from cachebackend.monitoring.node_views import labels, view_faults
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.versions import version_faults, versions_text
from cachebackend.node.breaker import REPLAYING
from cachebackend.telemetry.agreed_settings import QUEUE, AgreedSetting, ring_change_settings
from cachebackend.telemetry.processes import Process, Processes, read_processes

__all__ = [
    "Difference",
    "ProcessFigures",
    "clock_faults",
    "dated",
    "differences",
    "process_figures",
]

#: Stands for a setting that a process does not have.
_UNSET = AgreedSetting("", "not set")
#: Between the block of a setting and the server to which a process gives another name.
_NAME_OF = ": the name of "
_QUOTES = "'\""


class Difference(NamedTuple):
    """A setting in which a process differs from most others, or from those that started before it.

    Attributes:
        process: The process.
        setting: The path of the setting.
        value: The value that the process has, as text.
        usual: The value of the others, as text.
    """

    process: Process
    setting: str
    value: str
    usual: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.value}, not {self.usual}"


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """The processes of the site.

    Attributes:
        processes: Those that report, the oldest first. None: no node answered.
        differences: The settings in which they differ.
        faults: What is wrong.
        silent: Those that reported lately and do not any more. Nothing else counts them.
        now: When they were read, in seconds since 1970.
    """

    processes: Sequence[Process] | None = None
    differences: Sequence[Difference] = ()
    faults: list[Fault] = field(default_factory=list)
    silent: Sequence[Process] = ()
    now: float = field(default_factory=time.time)

    @property
    def versions_text(self) -> str:
        """Which versions run side by side, and since when; empty if there is one only."""
        return versions_text(self.processes or ())

    def of_kind(self, kind: str) -> list[Process]:
        """Return the processes of a kind."""
        return [process for process in self.processes or () if kind in process.kinds]

    def serving(self, queue: str) -> list[Process]:
        """Return the workers that serve a queue of Celery; those that do not say which they serve, too."""
        return [each for each in self.of_kind("worker") if not each.queues or queue in each.queues]

    def queue_of(self, task: str) -> str:
        """Return Celery's queue of a task, as the workers know it, else the settings; empty: not known."""
        known = (each.routes[task] for each in self.of_kind("worker") if task in each.routes)
        return next(known, _routed_queue(task))

    def celery(self, words: str, queue: str = "") -> str:
        """Return a command of Celery: with the name of the app, as far as a process knows it, and a queue."""
        app = next((process.app for process in self.processes or () if process.app), "yourproject")
        return f"`celery -A {app} {words}{f' -Q {queue}' if queue else ''}`"

    def draining(self, partition: str) -> tuple[Process, float] | None:
        """Return the process that drains a partition, and since when; None if none does."""
        found = [
            (process, since)
            for process in self.processes or ()
            for each, since in process.drains
            if each == partition
        ]
        return min(found, key=itemgetter(1), default=None)

    def wait_seconds(self, using: str) -> float:
        """Return in how many seconds a worker tries a database again that did not answer; 0: now."""
        waits = [
            seconds for each in self.of_kind("worker") for name, seconds, _ in each.waits if name == using
        ]
        return min(waits, default=0.0)

    def replaying(self, alias: str) -> set[str]:
        """Return the nodes of an alias to which a process replays missed deletes."""
        views = [view for each in self.processes or () for view in each.views]
        return {view.node for view in views if (view.alias, view.state) == (alias, REPLAYING)}

    def differences_of(self, process: Process) -> list[Difference]:
        """Return in what a process differs."""
        return [each for each in self.differences if each.process is process]


def _routed_queue(task: str) -> str:
    """Return the queue that Celery's settings name for a task, in any namespace; empty if they name none."""
    routes = [getattr(settings, name) for name in dir(settings) if name.endswith("TASK_ROUTES")]
    entries = [each.get(f"cachebackend.tasks.{task}") for each in routes if isinstance(each, Mapping)]
    names = (entry["queue"] for entry in entries if isinstance(entry, Mapping) and "queue" in entry)
    return str(next(names, ""))


def process_figures() -> ProcessFigures:
    """Return the processes of the site; one read of each node."""
    read = read_processes()
    if read.errors and not read.node_ages:
        return ProcessFigures()
    found = differences(read)
    faults = [*_difference_faults(found), *clock_faults(read.found), *view_faults(read.found, time.time())]
    faults += version_faults(read.found, time.time())
    return ProcessFigures(read.found, found, faults, read.silent)


def differences(read: Processes) -> list[Difference]:
    """Return the settings in which processes differ, and the servers to which they give other names."""
    paths = dict.fromkeys(path for process in read.found for path in process.settings)
    ring_changes = {paths_of[0]: paths_of for paths_of in map(ring_change_settings, _aliases(read.found))}
    beside = {path for paths_of in ring_changes.values() for path in paths_of[1:]}
    found = []
    for path in paths:
        if path not in beside:  # a change of the ring is deployed in steps, and processes may be one apart
            values = {process.id: process.settings.get(path, _UNSET) for process in read.found}
            found += list(_odd(path, read.found, values, ring_changes.get(path)))
    return [*found, *_name_differences(read)]


def _aliases(processes: Iterable[Process]) -> set[str]:
    paths = (path for process in processes for path in process.settings if path.endswith("['LOCATION']"))
    return {path.removeprefix("CACHES['").removesuffix("']['LOCATION']") for path in paths}


def _odd(
    path: str,
    processes: Sequence[Process],
    values: Mapping[str, AgreedSetting],
    ring_change: tuple[str, str, str] | None,
) -> Iterator[Difference]:
    usual = _usual([values[process.id].digest for process in processes])
    one = next(process for process in processes if values[process.id].digest == usual)
    for process in processes:
        value = values[process.id]
        if value.digest != usual and not (ring_change and _are_steps_of_a_change(process, one, ring_change)):
            yield Difference(process, path, value.text, values[one.id].text)


def _usual(values: Sequence[str]) -> str:
    """Return the value that most have; of two that equally many have, that of the oldest process."""
    return Counter(values).most_common(1)[0][0]  # it keeps the order in which it met them


def _are_steps_of_a_change(one: Process, other: Process, paths: tuple[str, str, str]) -> bool:
    """Return whether two processes have the two rings of one change, so that each knows of the other's."""
    ring, joining, leaving = paths
    return any(
        before.settings.get(joining, _UNSET).digest == after.settings.get(ring, _UNSET).digest
        and after.settings.get(leaving, _UNSET).digest == before.settings.get(ring, _UNSET).digest
        for before, after in ((one, other), (other, one))
    )


def _name_differences(read: Processes) -> Iterator[Difference]:
    """Yield for each server the processes that have another name for it, and those that do not use it."""
    for (alias, node), endpoint in read.endpoints.items():
        names = {each.id: each.names[alias, node] for each in read.found if (alias, node) in each.names}
        if not names:
            continue
        usual = _usual(list(names.values()))
        for process in read.found:
            if process.id in names and names[process.id] != usual:
                where = f"{_block(alias)}{_NAME_OF}{endpoint}"
                yield Difference(process, where, repr(names[process.id]), repr(usual))
            elif _uses_another_server(process, alias, node, read):
                yield Difference(process, f"{_block(alias)}: {node}", "another server", endpoint)


def _block(alias: str) -> str:
    return alias if alias == QUEUE else f"CACHES[{alias!r}]"


def _uses_another_server(process: Process, alias: str, node: str, read: Processes) -> bool:
    """Return whether a process has a node of this name that is another server.

    It reports to all its nodes at once. So it does not use a server that already stored reports when it
    last reported to another one, and has none of it, unless it does not reach the server.
    """
    if (alias, node) in process.names or not any(of == alias for of, _ in process.names):
        return False
    has_ejected = any((view.alias, view.node) == (alias, node) for view in process.views)
    is_older = read.node_ages[alias, node] > process.age + 1
    return is_older and not has_ejected and _has_node(process, alias, node)


def _has_node(process: Process, alias: str, node: str) -> bool:
    """Return whether a process has a node of this name, by the text of its setting."""
    paths = (ring_change_settings(alias)[0], f"{alias}['nodes']")
    texts = (process.settings[path].text for path in paths if path in process.settings)
    return any(f"{node} = " in text for text in texts)


def _difference_faults(found: Sequence[Difference]) -> Iterator[Fault]:
    """Yield a fault for each set of processes that differ in the same way."""
    by_process: dict[str, list[Difference]] = {}
    for each in found:
        by_process.setdefault(each.process.id, []).append(each)
    groups: dict[str, list[Process]] = {}
    for own in by_process.values():
        groups.setdefault("; ".join(_texts(own)), []).append(own[0].process)
    for text, processes in groups.items():
        since = min(process.started for process in processes)
        yield Fault(FaultKind.SETTINGS_DIFFER, f"{_named(processes)}: {text}.", since)


def _texts(own: Sequence[Difference]) -> Iterator[str]:
    """Yield in what a process differs: two names that it has exchanged in one text."""
    exchanged = {(each.value, each.usual): each for each in own if _NAME_OF in each.setting}
    swapped = [pair for pair in exchanged if pair[::-1] in exchanged and pair < pair[::-1]]
    for one, other in swapped:
        block = exchanged[one, other].setting.partition(_NAME_OF)[0]
        yield f"{block}: the names {one.strip(_QUOTES)} and {other.strip(_QUOTES)} are swapped"
    shown = {pair for one, other in swapped for pair in ((one, other), (other, one))}
    for each in own:
        if not (_NAME_OF in each.setting and (each.value, each.usual) in shown):
            yield str(each)


def _named(processes: Sequence[Process]) -> str:
    have = "has other settings" if len(processes) == 1 else "have other settings"
    return f"{labels(processes)} {have}"


def clock_faults(processes: Sequence[Process]) -> list[Fault]:
    """Return a fault for each machine whose clock differs from that of the nodes.

    If the clocks of all machines differ from it by the same time, it is the nodes' clock that is wrong.
    """
    by_host: dict[str, list[Process]] = {}
    for process in processes:
        if process.clock_ahead is not None:
            by_host.setdefault(process.host, []).append(process)
    ahead = {host: median(each.clock_ahead or 0.0 for each in own) for host, own in by_host.items()}
    if len(ahead) > 1 and _is_off(median(ahead.values())):
        usual = median(ahead.values())
        if all(abs(each - usual) <= MAX_CLOCK_SKEW_SECONDS for each in ahead.values()):
            message = f"The clocks of the nodes are {_off(-usual)} the clocks of all processes."
            return [Fault(FaultKind.CLOCK_WRONG, message)]
    faults = []
    for host, seconds in ahead.items():
        if _is_off(seconds):
            message = f"The clock of {host} ({labels(by_host[host])}) is {_off(seconds)} that of the nodes."
            faults.append(Fault(FaultKind.CLOCK_WRONG, message))
    return faults


def _is_off(seconds: float) -> bool:
    return abs(seconds) > MAX_CLOCK_SKEW_SECONDS


def _off(seconds: float) -> str:
    return f"{duration(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'}"


def dated(fault: Fault, figures: ProcessFigures) -> Fault:
    """Return a fault with the time when the first process noticed it, if any process did."""
    noticed: list[tuple[frozenset[str], float | None]] = []
    for process in figures.processes or ():
        if fault.kind in {FaultKind.NODE_DOWN, FaultKind.QUEUE_NODE_DOWN}:
            noticed += [(node_scope(view.alias, view.node), view.since) for view in process.views]
        elif fault.kind is FaultKind.DATABASE_DOWN:
            noticed += [(database_scope(using), since) for using, _, since in process.waits]
    times = [fault.since, *(since for scope, since in noticed if scope <= fault.scope)]
    return replace(fault, since=min((each for each in times if each is not None), default=None))

"""All figures of the site, and what is wrong: the page, the status page and ``ring doctor`` show the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cachebackend.conf import ring_aliases
from cachebackend.monitoring.faults import Fault, alias_scope, by_cause
from cachebackend.monitoring.node_faults import node_faults, others_than
from cachebackend.monitoring.outbox import OutboxFigures, outbox_figures
from cachebackend.monitoring.processes import ProcessFigures, dated, process_figures
from cachebackend.monitoring.queues import QueueFigures, queue_figures
from cachebackend.monitoring.reading import try_to_read
from cachebackend.monitoring.ring import AliasFigures, alias_figures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.workers import WorkerFigures, worker_figures
from cachebackend.node.breaker import REPLAYING, UP

__all__ = ["SiteFigures", "site_figures"]


@dataclass(frozen=True, slots=True)
class SiteFigures:
    """All figures of the site.

    Attributes:
        aliases: The cache aliases that can be read.
        processes: The processes.
        worker: The periodic tasks.
        outbox: The pending deletes.
        queues: Write-behind.
        faults: What is wrong: one fault for each cause, with its consequences.
        notes: What is worth knowing although the site is well.
    """

    aliases: Sequence[AliasFigures]
    processes: ProcessFigures
    worker: WorkerFigures
    outbox: OutboxFigures
    queues: QueueFigures
    faults: list[Fault]
    notes: Sequence[Fault] = ()


def site_figures() -> SiteFigures:
    """Return all figures. What does not answer is a fault; nothing is raised for it."""
    read = {alias: try_to_read(partial(alias_figures, alias)) for alias in ring_aliases()}
    aliases = [each for each in read.values() if isinstance(each, AliasFigures)]
    down = [node.name for each in aliases for node in each.nodes if node.state not in {UP, REPLAYING}]
    processes = process_figures()
    worker = worker_figures(processes)
    outbox = outbox_figures(down, is_relay_late=worker.is_relay_late)
    queues = queue_figures(processes)
    faults = [fault for each in aliases for fault in node_faults(each.alias, each.nodes, processes)]
    faults += [fault for each in aliases for fault in each.faults]
    faults += [*worker.faults, *outbox.faults, *_unknown(queues.faults, outbox.faults)]
    faults += others_than(faults, processes.faults)
    faults += [
        Fault(
            FaultKind.FIGURES_UNREADABLE,
            f"The figures of {alias!r} cannot be read: {each}",
            scope=alias_scope(alias),
        )
        for alias, each in read.items()
        if isinstance(each, str)
    ]
    causes = by_cause([dated(fault, processes) for fault in faults if not fault.is_note])
    notes = [fault for fault in faults if fault.is_note]
    return SiteFigures(aliases, processes, worker, outbox, queues, causes, notes)


def _unknown(faults: Sequence[Fault], known: Sequence[Fault]) -> list[Fault]:
    """Return the faults without those of databases that are known not to answer."""
    down = {fault.scope for fault in known if fault.kind is FaultKind.DATABASE_DOWN}
    return [fault for fault in faults if fault.kind is not FaultKind.DATABASE_DOWN or fault.scope not in down]

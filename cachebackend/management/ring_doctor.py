"""``manage.py ring doctor``: what is wrong, each cause with its consequences, and what is worth knowing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from cachebackend.client import RingClient
from cachebackend.management.report import Report, ReportCommand
from cachebackend.monitoring import Fault, site_figures
from cachebackend.monitoring.evictions import MIN_RATE_SECONDS, look_first
from cachebackend.monitoring.setup import ring_faults

__all__ = ["doctor_report", "lines_of"]


def doctor_report(command: ReportCommand, clients: Sequence[tuple[str, RingClient]]) -> Report:
    """Print what is wrong with the site, and with the setup of the nodes of some aliases."""
    if look_first(client for _, client in clients):
        time.sleep(MIN_RATE_SECONDS)  # evictions a second are the difference between two looks
    site = site_figures()
    setup = [each for alias, client in clients for each in ring_faults(alias, client, with_errors=False)]
    notes = [_line(note) for note in site.notes]
    for text in (*lines_of(site.faults), *setup):
        command.say(text)
    if not site.faults and not setup:
        command.say("nothing is set up wrong")
    for note in notes:
        command.say(f"note: {note}")
    faults = [*map(_line, site.faults), *setup]
    details = [fault.as_data() for fault in site.faults]
    return Report({"faults": faults, "details": details, "notes": notes, "well": not faults}, not faults)


def lines_of(faults: Iterable[Fault]) -> Iterator[str]:
    """Yield a line for each fault, with what to do, and below it a line for each of its consequences."""
    for fault in faults:
        yield _line(fault)
        for each in fault.consequences:
            yield f"  so: {_dated(each)}"


def _line(fault: Fault) -> str:
    return f"{_dated(fault)} {fault.way_out}"


def _dated(fault: Fault) -> str:
    """Return what is wrong, and since when."""
    since = f" (since {fault.since_text})" if fault.since_text else ""
    return f"{fault.message.rstrip('.')}{since}."

"""``manage.py ring processes``: the processes of the site, and what differs between them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cachebackend.management.report import Report, ReportCommand
from cachebackend.monitoring import ProcessFigures, process_figures
from cachebackend.monitoring.formatting import ago, duration
from cachebackend.telemetry.processes import Process
from cachebackend.telemetry.this_process import process_id

__all__ = ["processes_report"]

_COLUMNS = ("process", "host", "pid", "started", "clock", "nodes away", "drains", "differs in")

#: Of a cluster it is one server, so others may answer.
_UNKNOWN = "no node that has the reports of processes answers, so the processes are not known"


def processes_report(command: ReportCommand) -> Report:
    """Print each process of the site, and what is wrong with them."""
    figures = process_figures()
    if figures.processes is None:
        command.say(f"not well: {_UNKNOWN}")
        return Report({"processes": None, "silent": None, "faults": [_UNKNOWN], "well": False}, is_well=False)
    rows = [_row(process, figures) for process in figures.processes]
    command.print_table(_COLUMNS, rows)
    for process in figures.processes:
        for difference in figures.differences_of(process):
            command.say(f"{process.label}: {difference}")
        for view in process.views:
            again = "" if view.probe_in is None else f", tries it again in {duration(view.probe_in)}"
            node = f"node {view.node} of {view.alias!r}"
            command.say(f"{process.label}: {node} is {view.state_text}{again}: {view.error}")
        for using, seconds, _ in process.waits:
            if seconds > 0:
                command.say(f"{process.label}: tries the database {using!r} again in {duration(seconds)}")
    if figures.versions_text:
        command.say(figures.versions_text)
    for process in figures.silent:
        command.say(f"{process.label} reported {duration(process.age)} ago: it was killed, or hangs")
    for fault in figures.faults:
        command.say(f"not well: {fault.message}")
    is_well = not figures.faults
    data = {
        "processes": [_data(process, figures) for process in figures.processes],
        "silent": [_data(process, figures) for process in figures.silent],
        "faults": [fault.message for fault in figures.faults],
        "well": is_well,
    }
    return Report(data, is_well)


def _row(process: Process, figures: ProcessFigures) -> tuple[object, ...]:
    return (
        "this command" if process.id == process_id() else process.kind,
        process.host,
        process.pid,
        ago(process.started),
        "" if process.clock_ahead is None else f"{process.clock_ahead:+.1f} s",
        len(process.views),
        len(process.drains),
        len(figures.differences_of(process)),
    )


def _data(process: Process, figures: ProcessFigures) -> dict[str, Any]:
    data = asdict(process)
    data["settings"] = {path: setting._asdict() for path, setting in process.settings.items()}
    data["names"] = [
        {"alias": alias, "node": node, "name": name} for (alias, node), name in process.names.items()
    ]
    data["differences"] = [
        {"setting": each.setting, "value": each.value, "usual": each.usual}
        for each in figures.differences_of(process)
    ]
    return data

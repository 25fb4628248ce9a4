"""``ring processes`` without the reports of processes."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.management import ring_processes
from cachebackend.monitoring import ProcessFigures


def test_it_says_which_nodes_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the reports: in a cluster it is one server, and the others may answer."""
    said: list[str] = []

    class Command:
        say = staticmethod(said.append)

    monkeypatch.setattr(ring_processes, "process_figures", ProcessFigures)
    command: Any = Command()
    report = ring_processes.processes_report(command)
    assert not report.is_well
    assert said == [
        "not well: no node that has the reports of processes answers, so the processes are not known"
    ]
    assert report.data["faults"] == [said[0].removeprefix("not well: ")]

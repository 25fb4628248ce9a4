"""Write-behind under kills, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

from tests.commands import reports_of_program


def test_nothing_acknowledged_is_lost_and_nothing_is_applied_twice() -> None:
    """Writers are killed, workers at each step of a drain, the queue node, and Postgres."""
    reports = reports_of_program(
        "tests.live.drain_checker", "--seconds", "6", "--writers", "2", "--readers", "1", timeout=150
    )
    report = reports[-1]
    counts = ("lost", "doubled", "out_of_order", "parked", "wrong_reads")
    assert {name: report[name] for name in counts} == dict.fromkeys(counts, 0)
    assert min(report["acknowledged"], report["reads"]) > 100
    assert min(report["kills"]["writers"], report["kills"]["workers"]) >= 10
    assert min(report["kills"]["queue-a"], report["kills"]["postgres"]) >= 1
    assert report["stopped"] == 8 * report["older_files"] > 0

"""Write-behind on a cluster whose slots and primaries move, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

from tests.commands import reports_of_program

ACTORS = ("--writers", "2", "--drainers", "1", "--readers", "1")


def test_nothing_acknowledged_is_lost_or_doubled_while_slots_and_primaries_move() -> None:
    """With ``durability="fsync"`` and ``wait_replicas=1``; writers and workers are killed, too."""
    reports = reports_of_program(
        "tests.live.drain_checker", "--cluster", "--seconds", "8", *ACTORS, timeout=300
    )
    report = reports[-1]
    counts = ("lost", "doubled", "out_of_order", "parked", "wrong_reads")
    assert {name: report[name] for name in counts} == dict.fromkeys(counts, 0)
    assert min(report["acknowledged"], report["reads"]) > 0
    assert report["kills"]["cluster"] >= 1

"""A cluster whose slots and primaries move, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

from tests.commands import reports_of_program

MODES = ("--modes", "strict", "commit")


def test_no_read_from_a_cluster_is_older_than_what_was_acknowledged_before_it() -> None:
    """While slots move, and primaries are killed, suspended and replaced; deletes wait for a replica."""
    reports = reports_of_program("tests.live.checker", "--cluster", "--seconds", "5", *MODES, timeout=240)
    for report in reports:
        assert report["stale"] == 0 or report["mode"] == "commit"
        assert report["reads"] > 100
        assert report["writes"] > 10
        assert sum(report["accidents"].values()) > 0

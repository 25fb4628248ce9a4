"""Lists under kills, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

from tests.commands import reports_of_program

MODES = ("--modes", "calm", "broken")


def test_no_list_is_older_than_what_was_acknowledged_before_it() -> None:
    """Nor a count or an aggregate; while nodes and writers fail, one may be for a moment."""
    reports = reports_of_program("tests.live.list_checker", "--seconds", "5", *MODES, timeout=150)
    calm, broken = reports
    assert calm["stale"] == calm["uncommitted"] == broken["uncommitted"] == 0
    for report in (calm, broken):
        assert report["reads"] > 100
        assert report["hits"] > 10
        assert report["writes"] > 10
    assert broken["kills"] > 1
    assert sum(broken["accidents"].values()) > 1

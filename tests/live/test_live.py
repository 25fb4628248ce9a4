from __future__ import annotations

from tests.commands import reports_of_program

SECONDS = "5"
MODES = ("--modes", "commit", "strict")


def test_no_read_is_older_than_what_was_acknowledged_before_it() -> None:
    """While writers are killed and nodes fail; in the default mode a stale read is allowed for a moment.

    `make soak` runs longer.
    """
    reports = reports_of_program("tests.live.checker", "--seconds", SECONDS, *MODES, timeout=120)
    for report in reports:
        assert report["stale"] == 0 or report["mode"] == "commit"
        assert report["reads"] > 100
        assert report["writes"] > 10
        assert report["kills"] > 1
        assert sum(report["accidents"].values()) > 1

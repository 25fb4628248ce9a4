"""A few quick incidents of the game day; `make gameday` plays all of them."""

from __future__ import annotations

from tests.commands import reports_of_program
from tests.gameday.incidents import QUICK


def test_incidents_are_seen_and_say_what_to_do() -> None:
    """Page, metrics, commands and logs agree, the page says what to do, and all is well afterwards."""
    [outcomes] = reports_of_program("tests.gameday", "--quick", "--timeout", "2", timeout=240)
    assert {each["name"] for each in outcomes} == set(QUICK)
    assert all(each["way_out"] and each["seen"] is not None for each in outcomes)

"""The report of a process, as a node returns it: whole, from another version, or damaged."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cachebackend.telemetry.agreed_settings import AgreedSetting
from cachebackend.telemetry.process_reports import NodeView, Process, read_report

NOW = 1_700_000_000.0
WHOLE: dict[str, Any] = {
    "kind": "web+worker",
    "host": "h",
    "pid": 7,
    "command": "gunicorn",
    "version": "1.0",
    "started": NOW - 90,
    "clock": NOW + 10,
    "settings": {"PREFIX": ["digest", "text"]},
    "views": [{"alias": "default", "node": "a", "state": "ejected", "since": NOW, "later": "unknown"}],
    "facts": {
        "drains": [["shop.meter:1", NOW]],
        "waits": [["default", 2.0, NOW]],
        "queues": ["drains"],
        "routes": {"drain": "drains"},
        "app": "shop",
    },
}


def read(**damage: Any) -> Process | None:
    return read_report("p", json.dumps(WHOLE | damage).encode(), NOW, 1.0, {})


def test_times_are_those_of_the_node() -> None:
    """The clock of this process is ten seconds ahead. Parts that a later version adds are ignored."""
    process = read(more=1)
    assert process is not None
    assert (process.started, process.clock_ahead, process.age) == (NOW - 100, 10.0, 1.0)
    assert process.kinds == {"web", "worker"}
    assert process.settings == {"PREFIX": AgreedSetting("digest", "text")}
    assert process.views == (NodeView("default", "a", "ejected", NOW - 10),)
    assert process.drains == [("shop.meter:1", NOW - 10)]
    assert process.waits == [("default", 2.0, NOW - 10)]
    assert (process.queues, process.routes, process.app) == (["drains"], {"drain": "drains"}, "shop")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e18, -1e18, "soon", None, []])
@pytest.mark.parametrize("part", ["pid", "clock", "started"])
def test_a_report_with_an_impossible_number_is_left_out(part: str, value: Any) -> None:
    """It cannot be shown as a date or a duration."""
    assert read(**{part: value}) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"views": [{"alias": "default"}]},
        {"views": [WHOLE["views"][0] | {"since": math.nan}]},
        {"views": [WHOLE["views"][0] | {"probe_in": math.inf}]},
        {"views": 5},
        {"facts": []},
        {"facts": {"drains": [["shop.meter:1", math.inf]]}},
        {"facts": {"waits": [["default", math.inf, 1.0]]}},
        {"settings": {"PREFIX": ["a", "b", "c"]}},
        {"kind": 7},
    ],
)
def test_a_report_with_a_part_of_another_form_is_left_out(damage: dict[str, Any]) -> None:
    """Another program wrote it."""
    assert read(**damage) is None


@pytest.mark.parametrize(
    "report", [b"", b"\xff", b"[1]", b'{"pid": ' + b"9" * 5000 + b"}", b"[" * 100_000 + b"]" * 100_000]
)
def test_bytes_that_are_not_a_report_are_left_out(report: bytes) -> None:
    """Deeply nested ones, too."""
    assert read_report("p", report, NOW, 1.0, {}) is None


def test_text_that_cannot_be_encoded_is_replaced() -> None:
    """JSON may have lone surrogates, which no page and no metric can show."""
    lone = "\ud800"
    process = read(host=lone, settings={lone: [lone, lone]}, views=[WHOLE["views"][0] | {"error": lone}])
    assert process is not None
    assert (process.host, process.settings) == ("?", {"?": AgreedSetting("?", "?")})
    assert process.views[0].error == "?"

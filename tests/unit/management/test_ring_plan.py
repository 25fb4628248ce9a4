"""The plan of a ring change: the keys that move, and the settings of its deploys."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.management.ring_plan import DEPLOYS, plan_change, settings_text
from cachebackend.options import Faults, RingOptions, parse_nodes


def nodes(*urls: str) -> Any:
    return parse_nodes(list(urls), Faults("NODES"))


A, B, C = (f"redis://h:{port}?name={name}" for port, name in enumerate("abc", 1))


def urls(*given: str) -> list[str]:
    return [node.setting for node in nodes(*given)]


def test_a_node_that_joins_takes_its_share() -> None:
    """And moves no more than the cap requires; the shares are from before and after."""
    plan = plan_change(nodes(A, B), nodes(A, B, C))
    assert plan.moved == pytest.approx(1 / 3, abs=0.02)
    assert {name: after > 0 for name, (_, after) in plan.shares.items()} == {"a": True, "b": True, "c": True}
    assert plan.shares["c"][0] == 0
    assert sum(after for _, after in plan.shares.values()) == pytest.approx(1.0)


def test_a_server_under_another_name_moves_the_keys_of_the_name() -> None:
    """The name decides which keys a node owns, the endpoint where they are stored."""
    assert plan_change(nodes(A, B), nodes(A, B)).moved == 0
    renamed = plan_change(nodes(A), nodes("redis://h:1?name=z"))
    assert renamed.moved == 0
    assert renamed.shares == {"a": (1.0, 0), "z": (0, 1.0)}


def test_the_settings_of_each_deploy_can_be_run() -> None:
    """They can be pasted below CACHES; each is accepted by the options of the alias."""
    text = settings_text("default", urls(A, B), urls(A, B, C))
    head, *deploys = text.split("# Deploy ")
    assert len(deploys) == len(DEPLOYS)
    for deploy in deploys:
        settings: dict[str, Any] = {"CACHES": {"default": {"LOCATION": [A], "OPTIONS": {"jitter": 0.1}}}}
        exec(head + "# " + deploy, settings)
        block = settings["CACHES"]["default"]
        options = RingOptions.read(block["LOCATION"], block["OPTIONS"], "CACHES")
        assert options.jitter == 0.1
    assert {node.name for node in options.nodes} == {"a", "b", "c"}
    assert (options.joining, options.leaving) == ((), ())


def test_a_password_is_left_out_and_the_text_says_so() -> None:
    """The text may be pasted into a ticket."""
    text = settings_text("default", urls(A), urls("redis://me:hunter2@h:9?name=z"))
    assert "hunter2" not in text
    assert "user and password" in text

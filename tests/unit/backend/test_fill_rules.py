"""The rules of fills that need no database."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend.backend import fill_rules
from cachebackend.backend.fill_rules import Changes, async_guard, guard
from cachebackend.protocol import Unfilled


@pytest.mark.parametrize(
    ("vendor", "level", "expected"),
    [
        ("mysql", "read committed", True),
        ("mysql", "read uncommitted", False),
        ("mysql", "repeatable read", False),
        ("mysql", None, False),
        ("oracle", None, False),
    ],
)
def test_a_database_that_is_not_known_to_read_what_is_committed_stores_nothing(
    vendor: str, level: str | None, expected: bool
) -> None:
    """MySQL at its own default level, or a database that Django does not know."""
    connection = SimpleNamespace(vendor=vendor, isolation_level=level)
    assert fill_rules._reads_committed(connection) is expected


@pytest.mark.parametrize("sees_commits", [True, False])
@pytest.mark.parametrize("changes", Changes)
def test_a_guarded_loader_says_whether_its_value_may_be_stored(
    monkeypatch: pytest.MonkeyPatch, sees_commits: bool, changes: Changes
) -> None:
    """The snapshot is asked before the load, and the changes after it."""
    order: list[str] = []

    def answer(name: str, value: Any) -> Any:
        return lambda *_, **__: order.append(name) or value

    monkeypatch.setattr(fill_rules, "_all_see_commits", answer("snapshot", sees_commits))
    monkeypatch.setattr(fill_rules, "_changes", answer("changes", changes))
    monkeypatch.setattr(fill_rules, "any_open", lambda: True)
    expected: Any = 7 if sees_commits and not changes else Unfilled(7)
    assert guard(answer("load", 7))() == expected
    assert order[:2] == ["snapshot", "load"]

    async def load(value: int) -> int:
        return value

    assert asyncio.run(async_guard(load)(7)) == expected
    assert asyncio.run(async_guard(lambda: 7)()) == expected

"""Queries of other sessions, as they may be shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from cachebackend.writebehind.sessions import Blocker, masked


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("UPDATE  a\n SET b = 'it''s secret' WHERE id = 17", "UPDATE a SET b = ? WHERE id = ?"),
        (r"SELECT E'it\'s', $$secret$$, $x$ 'secret' $x$, 1.5e3, c2", "SELECT ?, ?, ?, ?, c2"),
        ("SELECT 'secret that was cut", "SELECT ?"),
        ("SELECT $$secret that was cut", "SELECT ?"),
        ("", ""),
    ],
)
def test_a_query_is_shown_without_its_literals(query: str, shown: str) -> None:
    """They may be passwords, also if the server has cut the text."""
    assert masked(query) == shown


def test_the_time_is_in_the_zone_of_the_project() -> None:
    """Other times on the page are, too."""
    since = datetime(2026, 1, 31, 23, 20, 22, tzinfo=UTC)
    with timezone.override("Asia/Tokyo"):
        assert "idle since 08:20:22" in str(Blocker(7, "", None, "idle", since, ""))


def test_a_long_query_is_shortened() -> None:
    """To one line."""
    assert len(masked(f"SELECT {'column, ' * 100}")) == 120

"""The reason why a query is not cached."""

from __future__ import annotations

from cachebackend.queries.not_cached import NotCached


def test_it_has_a_reason() -> None:
    """``explain_cache()`` prints it."""
    assert NotCached("it locks rows").reason == str(NotCached("it locks rows")) == "it locks rows"

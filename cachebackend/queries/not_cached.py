"""The exception for a query whose results are not cached."""

from __future__ import annotations

__all__ = ["NotCached"]


class NotCached(Exception):  # noqa: N818  # not an error: the query is run as it is
    """The results of this query are not cached.

    Args:
        reason: Why, in one sentence, for ``explain_cache()``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

"""Something that is wrong, and since when."""

from __future__ import annotations

from dataclasses import dataclass

from cachebackend.monitoring.formatting import moment

__all__ = ["Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong.

    Attributes:
        about: Of what: ``nodes``, ``counts``, ``worker``, ``owed`` or ``waiting``.
        what: What, in a sentence.
        since: When it began, in seconds since 1970; None: that is not known.
    """

    about: str
    what: str
    since: float | None = None

    @property
    def when(self) -> str:
        """When it began, in words; empty if that is not known."""
        return "" if self.since is None else moment(self.since)

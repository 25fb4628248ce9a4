"""A time zone whose name does not show its offset, as those of other packages may be."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

__all__ = ["Zone"]


class Zone(tzinfo):
    """A fixed offset from UTC that is named UTC."""

    def __init__(self, hours: int = 0) -> None:
        self._hours = hours

    def __repr__(self) -> str:
        return "UTC"

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=self._hours)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, _: datetime | None) -> str:
        return "UTC"

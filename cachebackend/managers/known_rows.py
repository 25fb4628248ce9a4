"""``KnownRows``: which row last had a value of a lookup, so that one read finds it.

The ring stores which row has a value, under the key of the lookup. A read of that key comes before
the read of the row, mostly from another node. A process that has found a row once asks for it at once,
and compares its value. That is right without the key of the lookup:

    1. a reader finds row 1, whose slug is "a", and notes this;
    2. a writer gives "a" to row 2, and another slug to row 1; it commits, and deletes their keys;
    3. the reader asks for row 1. Its entry is not there, or has the other slug: the reader forgets
       the note, and asks for the key of the lookup.

What the entry of a row has is not older than what was acknowledged before the read, and no two rows
have one value at the same time. So if the row still has the value, it is the row that has it.
"""

from __future__ import annotations

from typing import Any

from cachebackend.managers.lookups import Lookup

__all__ = ["KnownRows"]

#: The most values whose rows a process knows, of each manager.
MAX_VALUES = 10_000
#: The most characters of such a value.
_MAX_LENGTH = 200


class KnownRows:
    """The primary keys of the rows that last had some values of lookups.

    Values are noted if they are their own texts: then Python compares them as the database does.
    """

    def __init__(self) -> None:
        self._pks: dict[tuple[str, str, Any], Any] = {}

    def pk_of(self, lookup: Lookup, value: Any, scope: str) -> Any:
        """Return the primary key of the row that last had a value in a scope; None if it is not known."""
        if type(value) is not lookup.plain_type:
            return None
        return self._pks.get((lookup.name, scope, value))

    def note(self, lookup: Lookup, value: Any, scope: str, pk: Any) -> None:
        """Note that a row has a value."""
        if type(value) is not lookup.plain_type or (type(value) is str and len(value) > _MAX_LENGTH):
            return
        if len(self._pks) >= MAX_VALUES:
            self._pks.clear()
        self._pks[lookup.name, scope, value] = pk

    def forget(self, lookup: Lookup, value: Any, scope: str) -> None:
        """Forget which row had a value: it is not cached, or has another value now."""
        self._pks.pop((lookup.name, scope, value), None)

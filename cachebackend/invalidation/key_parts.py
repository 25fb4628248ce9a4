"""The keys of one transaction in parts, each of which is an outbox row of its own.

A relay needs memory for the keys of a row, and does not read a row that has too many. But it handles the
rows apart from each other, and a tag must be deleted after the values that it protects:

    1. relay   deletes the tag of row A; the node of the value of row A does not confirm
    2. reader  makes a page from the old row A, with the tag
    3. relay   deletes the value, in a later round. The page stays

So what one changed row makes wrong is in one part: its values and its tags. The tags that a project names
itself protect any value, and are in every part.
"""

from __future__ import annotations

from cachebackend.invalidation.watched import KeysByAlias, add_keys

__all__ = ["MOST_KEYS", "ROWS_OF_UNIT", "KeyParts"]

#: The most keys of an outbox row, as far as they can be parted.
MOST_KEYS = 10_000
#: Changed rows whose keys are added to one part together: with five keys each, they are half of a part.
ROWS_OF_UNIT = 1000


class KeyParts:
    """The parts of a transaction's keys.

    Attributes:
        parts: The keys of each part.
    """

    def __init__(self) -> None:
        self.parts: list[KeysByAlias] = [{}]
        #: How many keys were added to the last part; some may have been there already.
        self._added = 0

    def begin_unit(self) -> None:
        """Begin to add keys that must be in one part."""
        if self._added > MOST_KEYS // 2:
            self._added = _count(self.parts[-1])
            if self._added > MOST_KEYS // 2:
                self.parts.append({})
                self._added = 0

    def add(self, keys: KeysByAlias) -> None:
        """Add keys to the last part."""
        add_keys(self.parts[-1], keys)
        self._added += _count(keys)

    def of_outbox_rows(self, keys: KeysByAlias) -> list[KeysByAlias]:
        """Return the keys of each outbox row.

        Args:
            keys: All keys of the transaction. Those that are in no part are in every row, or in the only row.
        """
        if _count(keys) <= MOST_KEYS:
            return [keys]
        others: KeysByAlias = {}
        for alias, group in keys.items():
            add_keys(others, {alias: group.difference(*(part.get(alias, ()) for part in self.parts))})
        if _count(others) > MOST_KEYS:
            return [keys]
        rows: list[KeysByAlias] = []
        for part in self.parts:
            rows.append({alias: set(group) for alias, group in part.items()})
            add_keys(rows[-1], others)
        return rows


def _count(keys: KeysByAlias) -> int:
    return sum(map(len, keys.values()))

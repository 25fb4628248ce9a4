"""Lists between which rows move, and which results of queries over them are possible.

Each version of a row is in one list, or does not exist. Which one is computed from the row and the
version, so a reader knows it without asking. A reader knows two versions of a row: the one that was
acknowledged before its read began, and the newest one that a writer had begun by the end of the read.
The result of a query must fit versions between these: for a row in a list, one of them that is in the
list; and for a row that is not in it, one that is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LISTS", "Possible", "list_of", "title_of"]

LISTS = 5
#: One version of a row does not exist, in this number of versions.
_GONE_EVERY = 9


def list_of(number: int, version: int) -> int | None:
    """Return the list that a version of a row is in; None: the row does not exist in this version."""
    if version % _GONE_EVERY == _GONE_EVERY - 1:
        return None
    return (number * 7 + version * (version + 3) // 2) % LISTS


def title_of(number: int) -> str:
    """Return the title that rows of a list have."""
    return f"list-{number}"


@dataclass(frozen=True, slots=True)
class Possible:
    """The versions that the rows may have had while a query ran.

    Attributes:
        least: For each row the version that was acknowledged before.
        most: For each row the newest version that a writer had begun.
    """

    least: Sequence[int]
    most: Sequence[int]

    def allows_rows(self, number: int, found: Mapping[int, int]) -> bool:
        """Return whether a list may have had these rows, each with this version."""
        for row, (least, most) in enumerate(zip(self.least, self.most, strict=True)):
            version = found.get(row)
            if version is None:
                if self._is_in(row, number, all):
                    return False
            elif not least <= version <= most or list_of(row, version) != number:
                return False
        return True

    def allows_count(self, number: int, count: int) -> bool:
        """Return whether a list may have had this number of rows."""
        rows = range(len(self.least))
        certain = sum(self._is_in(row, number, all) for row in rows)
        return certain <= count <= sum(self._is_in(row, number, any) for row in rows)

    def allows_sum(self, number: int, total: int) -> bool:
        """Return whether the versions of the rows in a list may have had this sum."""
        versions = [self._versions_in(row, number) for row in range(len(self.least))]
        certain = sum(
            min(each) for row, each in enumerate(versions) if each and self._is_in(row, number, all)
        )
        return certain <= total <= sum(max(each) for each in versions if each)

    def allows_most(self, number: int, version: int | None) -> bool:
        """Return whether this version may have been the newest one in a list; None: the list was empty."""
        versions = [self._versions_in(row, number) for row in range(len(self.least))]
        certain = [min(each) for row, each in enumerate(versions) if each and self._is_in(row, number, all)]
        if version is None:
            return not certain
        return any(version in each for each in versions) and version >= max(certain, default=0)

    def allows_counts(self, found: Mapping[int, int]) -> bool:
        """Return whether the lists may have had these numbers of rows."""
        return all(self.allows_count(number, found.get(number, 0)) for number in range(LISTS))

    def _versions(self, row: int) -> range:
        return range(self.least[row], self.most[row] + 1)

    def _versions_in(self, row: int, number: int) -> Collection[int]:
        return [version for version in self._versions(row) if list_of(row, version) == number]

    def _is_in(self, row: int, number: int, which: object) -> bool:
        found = (list_of(row, version) == number for version in self._versions(row))
        return bool(which(found))  # type: ignore[operator]  # all or any

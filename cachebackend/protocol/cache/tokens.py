"""The tokens of tags, as one operation has read them, and the values that are valid under them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cachebackend.codec import tags_of_block

__all__ = ["Tokens"]


class Tokens:
    """The tokens that tags have now; a value is valid if it records the same ones.

    Values that were loaded under the same tags mostly have the same tag block. So a block is taken
    apart once, however many values have it.

    Args:
        required: The tags that the reader asks for. A value that was stored without one of them is
            invalid, because the invalidation of this tag would not reach it.
    """

    __slots__ = ("_are_valid", "_recorded", "_tokens", "required")

    def __init__(self, required: Sequence[bytes] = ()) -> None:
        self.required = required
        self._tokens: dict[bytes, bytes | None] = {}
        self._recorded: dict[bytes, dict[bytes, bytes]] = {}
        self._are_valid: dict[bytes, bool] = {}

    def add(self, tokens: Mapping[bytes, bytes | None]) -> None:
        """Add the tokens of more tags; None for a tag that is gone, or whose node did not answer."""
        self._tokens.update(tokens)
        self._are_valid.clear()

    def unread(self, blocks: Iterable[bytes]) -> list[bytes]:
        """Return the tags in some tag blocks whose tokens were not added yet."""
        tags = (tag for block in blocks for tag in self.tags_of(block) if tag not in self._tokens)
        return list(dict.fromkeys(tags))

    def tags_of(self, block: bytes) -> dict[bytes, bytes]:
        """Return key and recorded token of each tag in a tag block."""
        recorded = self._recorded.get(block)
        if recorded is None:
            recorded = self._recorded[block] = tags_of_block(block)
        return recorded

    def missing(self) -> list[bytes]:
        """Return the required tags that have no token as far as is known."""
        return [tag for tag in self.required if self._tokens.get(tag) is None]

    def of_required(self) -> dict[bytes, bytes] | None:
        """Return the token of each required tag; None if one has no token as far as is known."""
        known = {tag: token for tag in self.required if (token := self._tokens.get(tag)) is not None}
        return known if len(known) == len(self.required) else None

    def are_recorded_in(self, block: bytes) -> bool:
        """Return whether a value with this tag block is valid; a value without tags has an empty one."""
        is_valid = self._are_valid.get(block)
        if is_valid is None:
            is_valid = self._are_valid[block] = self._compare(block)
        return is_valid

    def _compare(self, block: bytes) -> bool:
        recorded = self.tags_of(block)
        if block and not recorded:  # it cannot be read
            return False
        return all(map(recorded.__contains__, self.required)) and recorded.items() <= self._tokens.items()

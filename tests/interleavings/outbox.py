"""The outbox of a world: which deletes are not confirmed yet, and whose they are."""

from __future__ import annotations

from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedKeys

__all__ = ["Outbox"]


class Outbox:
    """The rows that stand: what they owe, and whose transaction or intent they are, if anybody's.

    Args:
        target: The key that the rows of keys owe.
    """

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.rows: set[tuple[str, str]] = set()

    def keep(self, node: str, owed: MissedKeys) -> bool:
        self.rows.add(("everything", node) if owed.is_all_keys else ("keys", ""))
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        owes_keys = any(kind != "everything" for kind, _ in self.rows)
        if ("everything", node) in self.rows or owes_keys > limit:
            return ALL_KEYS
        return MissedKeys((self.target,) if owes_keys else ())

"""The outbox of a world: the deletes that are not confirmed yet, and the writer of each."""

from __future__ import annotations

from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedKeys

__all__ = ["Outbox"]


class Outbox:
    """The rows of unconfirmed deletes: the kind of each, and the writer or node that it belongs to.

    Args:
        target: The key that every row of keys deletes.
    """

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.rows: set[tuple[str, str]] = set()

    def keep(self, node: str, missed: MissedKeys) -> bool:
        self.rows.add(("everything", node) if missed.is_all_keys else ("keys", ""))
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        has_keys = any(kind != "everything" for kind, _ in self.rows)
        if ("everything", node) in self.rows or has_keys > limit:
            return ALL_KEYS
        return MissedKeys((self.target,) if has_keys else ())

"""How keys are deleted, by whoever owes it: whatever they hold, but for a quarantine.

Why a quarantine stays, and is as good as a delete, stands in ``quarantining``.
"""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.effects import Script, ScriptCall

__all__ = ["drop"]

_DROP = Script("cachebackend.protocol", "drop")


def drop(keys: Sequence[bytes]) -> ScriptCall:
    """Return the command that deletes keys of one node; the node answers how many were there."""
    return _DROP.call(keys)

"""What can go wrong, one class each; the docstring is the default message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "CodecError",
    "ConfigurationError",
    "NodeReplyError",
    "NodeUnavailableError",
    "RecordError",
    "RingCacheError",
    "WriteBehindDamagedError",
    "WriteBehindError",
    "WriteBehindFullError",
    "WriteBehindPartialError",
    "WriteBehindRefusedError",
    "WriteBehindStoppedError",
    "WriteBehindUnknownError",
]


class RingCacheError(Exception):
    """The ring cache failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class ConfigurationError(RingCacheError):
    """The settings of the ring are wrong.

    Attributes:
        faults: Every fault found, each opening with the path of the setting.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class NodeUnavailableError(RingCacheError):
    """A node of the ring could not be reached, or broke off before it answered.

    Attributes:
        was_sent: Whether the commands were sent, so that the node may have run them.
        ejects: Whether it says that the node will not serve others either. Not so of a full
            or a read-only one: it serves reads.
    """

    was_sent = False
    ejects = True


class NodeReplyError(RingCacheError):
    """A node answered a command with an error.

    Attributes:
        code: The first word of the answer, such as ``NOSCRIPT`` or ``OOM``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


class RecordError(RingCacheError):
    """The bytes of a key are not a record that this version can read."""


class CodecError(RingCacheError):
    """The value cannot be held by the codec that the settings name."""


class WriteBehindError(RingCacheError):
    """A write-behind operation failed."""


class WriteBehindDamagedError(WriteBehindError):
    """A queue holds what no write puts there."""


class WriteBehindRefusedError(WriteBehindError):
    """The write cannot be taken by write-behind; nothing was written."""


class WriteBehindFullError(WriteBehindError):
    """The queue holds as much as ``WRITE_BEHIND['high_water']`` allows; nothing was written."""


class WriteBehindStoppedError(WriteBehindError):
    """A partition's queue is not the one that its checkpoint knows; ``writebehind repair`` goes on."""


class WriteBehindUnknownError(WriteBehindError, NodeUnavailableError):
    """The queue node did not answer, and whether it took the write is not known."""

    was_sent = True


class WriteBehindPartialError(WriteBehindError):
    """Some rows of a call were not taken.

    Attributes:
        errors: Why, for each of these rows, by its primary key. All others were taken.
    """

    def __init__(self, errors: Mapping[Any, Exception]) -> None:
        self.errors = dict(errors)
        pk, error = next(iter(self.errors.items()))
        super().__init__(f"{len(self.errors)} rows were not taken; {pk!r}: {error}")

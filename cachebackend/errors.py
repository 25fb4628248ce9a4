"""What can go wrong, one class each; the docstring is the default message."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CodecError",
    "ConfigurationError",
    "NodeReplyError",
    "NodeUnavailableError",
    "RecordError",
    "RingCacheError",
    "WriteBehindError",
    "WriteBehindRefusedError",
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
    """A node of the ring could not be reached, or broke off before it answered."""


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


class WriteBehindRefusedError(WriteBehindError):
    """The write cannot be taken by write-behind; nothing was written."""

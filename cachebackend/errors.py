"""The errors that this package raises; the docstring of a class is its default message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "CodecError",
    "ConfigurationError",
    "InterruptLostError",
    "MovingSlotError",
    "NodeReplyError",
    "NodeUnavailableError",
    "RecordError",
    "RedirectedError",
    "RingCacheError",
    "UnconfirmedError",
    "UnservedSlotError",
    "ValueTooLongError",
    "WriteBehindDamagedError",
    "WriteBehindDatabaseError",
    "WriteBehindError",
    "WriteBehindFullError",
    "WriteBehindMovedError",
    "WriteBehindPartialError",
    "WriteBehindRefusedError",
    "WriteBehindStoppedError",
    "WriteBehindUnknownError",
    "WriteBehindVersionError",
]


class RingCacheError(Exception):
    """The ring cache failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and the attributes; ``__init__`` of a subclass may take other arguments."""
        return _unpickle, (type(self), self.args, self.__dict__)


def _unpickle(
    kind: type[RingCacheError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> RingCacheError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigurationError(RingCacheError):
    """The settings of the ring are not valid.

    Attributes:
        faults: All faults; each begins with the path of its setting.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class InterruptLostError(RingCacheError):
    """A signal handler raised while a value was encoded or decoded, and its own exception was lost."""


class NodeUnavailableError(RingCacheError):
    """A node of the ring could not be reached, or did not answer.

    Attributes:
        was_sent: Whether the commands were sent, so that the node may have run them.
        ejects: Whether the error counts towards ejecting the node. The error of a node that is full
            or read-only does not, because the node still serves reads.
        is_elsewhere: Whether another server has failed, to which the node has redirected the command.
    """

    was_sent = False
    ejects = True
    is_elsewhere = False


class MovingSlotError(NodeUnavailableError):
    """A slot of the cluster is being moved, and only a part of the keys has arrived; nothing was executed."""

    ejects = False


class UnservedSlotError(NodeUnavailableError):
    """No server of the cluster has the slot of the key, according to the server that was asked."""

    ejects = False


class UnconfirmedError(NodeUnavailableError):
    """The node has executed the command, but too few disks or replicas have confirmed it in time.

    Attributes:
        reply: What the node has answered.
    """

    was_sent = True
    ejects = False
    reply: Any = None


class NodeReplyError(RingCacheError):
    """A node answered a command with an error.

    Attributes:
        code: The first word of the node's error, such as ``WRONGTYPE`` or ``NOSCRIPT``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


class RedirectedError(NodeReplyError):
    """A server of a cluster answered that another server has the slot of the key.

    Attributes:
        is_moved: Whether the slot belongs to the other server. False: it is being moved there, and only
            this key may be there already.
        slot: The slot, 0 to 16,383.
        host: The host of the other server; empty: the host of the server that answered; ``?``: the server
            has no hostname, although the cluster prefers hostnames.
        port: Its port.
    """

    is_moved = False
    slot = 0
    host = ""
    port = 0

    @classmethod
    def read(cls, text: str) -> RedirectedError:
        """Return the error of a text such as ``MOVED 3999 10.0.0.1:6379``.

        Raises:
            ValueError: The text has another form.
        """
        code, slot, address = text.split(" ")
        host, _, port = address.rpartition(":")
        error = cls(f"{text} (the node belongs to a cluster: write its URL as redis+cluster://host:port)")
        error.is_moved = code == "MOVED"
        error.slot, error.host, error.port = int(slot), host.strip("[]"), int(port)
        if not 0 <= error.slot < 16_384:
            message = "a cluster has 16,384 slots"
            raise ValueError(message)
        return error


class RecordError(RingCacheError):
    """The bytes of a key are not a record that this version can read."""


class CodecError(RingCacheError):
    """The codec of the settings cannot hold the value."""


class ValueTooLongError(CodecError):
    """The value has more bytes than ``max_value_bytes`` allows."""


class WriteBehindError(RingCacheError):
    """A write-behind operation failed."""


class WriteBehindDamagedError(WriteBehindError):
    """A write-behind queue holds data that no write of this package makes."""


class WriteBehindRefusedError(WriteBehindError):
    """Write-behind does not support this write; nothing was written."""


class WriteBehindFullError(WriteBehindError):
    """The queue has reached ``high_water`` or ``high_water_bytes``; nothing was written."""


class WriteBehindStoppedError(WriteBehindError):
    """A partition's queue does not match its checkpoint; run ``manage.py writebehind repair``."""


class WriteBehindDatabaseError(WriteBehindError):
    """A batch was queued for another database than the one to which this process sends the model's rows."""


class WriteBehindVersionError(WriteBehindError):
    """A batch was queued by another version of the code; it waits for a worker that runs that version."""


class WriteBehindUnknownError(WriteBehindError, NodeUnavailableError):
    """The queue node did not answer; it may or may not have queued the write."""

    was_sent = True


class WriteBehindMovedError(WriteBehindError, NodeUnavailableError):
    """The number of partitions is being changed; nothing was written. Try again after the change.

    Attributes:
        is_closed: Whether the change has not ended yet.
    """

    def __init__(self, message: str, *, is_closed: bool) -> None:
        super().__init__(message)
        self.is_closed = is_closed


class WriteBehindPartialError(WriteBehindError):
    """Some rows of a call were not queued.

    Attributes:
        errors: For the primary key of each of these rows, the reason. All other rows were queued.
    """

    def __init__(self, errors: Mapping[Any, Exception]) -> None:
        self.errors = dict(errors)
        pk, error = next(iter(self.errors.items()))
        super().__init__(f"{len(self.errors)} rows were not queued; the first is {pk!r}: {error}")

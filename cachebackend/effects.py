"""What an operation asks of the world: commands to nodes, a pause, the caller's loader.

An operation is a generator that yields these and is sent what came of them. It never
waits itself, so a driver can run it blocking or in asyncio, and a test can step two of
them against each other in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias, TypeVar

from cachebackend.errors import NodeReplyError

__all__ = [
    "Argument",
    "Command",
    "Continue",
    "Effect",
    "Load",
    "Operation",
    "Reply",
    "Request",
    "Script",
    "ScriptCall",
    "Send",
    "Sleep",
    "is_unknown_script",
]

Argument: TypeAlias = bytes | str | int | float
Command: TypeAlias = tuple[Argument, ...]
#: A node, by its index, and the command for it.
Request: TypeAlias = tuple[int, Command]
#: What a node said to one command: None, an integer, bytes, a list of these, or, not
#: raised but in its place, the RingCacheError that the command ended in.
Reply: TypeAlias = Any


class Send(NamedTuple):
    """Send each command to its node (by index), all before any reply is read.

    Sent back: a list with the reply to each command, in the order of the requests.
    """

    requests: Sequence[Request]


class Sleep(NamedTuple):
    """Wait for so many seconds."""

    seconds: float


class Load(NamedTuple):
    """Call the caller's loader and send back what it returns; in asyncio it may be a coroutine."""

    loader: Callable[[], Any]


Effect: TypeAlias = Send | Sleep | Load
T = TypeVar("T")
Operation: TypeAlias = Generator[Effect, Any, T]


class Continue(NamedTuple):
    """What ``settle`` returns where one reply is not enough: the operation that does the rest.

    An operation of one key is a pair of pure functions, ``begin``, which makes its request, and
    ``settle``, which reads the reply and returns the result, or this. A generator calls both, and
    so does a client that needs no generator for one command and one reply.
    """

    operation: Operation[Any]


class Script:
    """A Lua script, called by its SHA-1; a driver sends the source where a node lacks it.

    Args:
        package: The package that holds the file.
        name: The file's name without ``.lua``.
        preludes: The names of files that it begins with.
    """

    def __init__(self, package: str, name: str, *preludes: str) -> None:
        self.name = name
        parts = (*preludes, name)
        self.source = b"".join(files(package).joinpath(f"{part}.lua").read_bytes() for part in parts)

    @cached_property
    def sha(self) -> str:
        """The name that the node knows the script by."""
        return sha1(self.source, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[bytes], *arguments: Argument) -> ScriptCall:
        """Return the command that runs the script with these KEYS and ARGV."""
        call = ScriptCall((b"EVALSHA", self.sha, len(keys), *keys, *arguments))
        call.script = self
        return call


def is_unknown_script(reply: Reply) -> bool:
    """Return whether a node says that it does not know a script: it ran nothing."""
    return reply.__class__ is NodeReplyError and reply.code == "NOSCRIPT"


class ScriptCall(tuple[Argument, ...]):
    """A command that runs a script."""

    script: Script

    @property
    def with_source(self) -> Command:
        """The same call, with the script itself instead of its name."""
        return (b"EVAL", self.script.source, *self[2:])

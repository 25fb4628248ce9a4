"""The effects that an operation yields: commands to nodes, a pause, a call of the caller's code.

An operation is a generator. It yields an effect, a driver performs it, and sends the result back into
the generator. The operation itself never waits, so a driver can run it in blocking code or in
asyncio, and a test can step two operations against each other in any order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias, TypeVar

from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.properties import cached_property
from cachebackend.replies import Reply, Shape

__all__ = [
    "Argument",
    "Ask",
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
    "is_promise",
    "is_unknown_script",
    "resumed",
    "sharing_first_scatter",
    "side_by_side",
]

#: Never a number: to format one, hiredis runs Python code, and crashes the process if a signal handler
#: raises in it.
Argument: TypeAlias = bytes | str
Command: TypeAlias = tuple[Argument, ...]
#: A node, by its index, and the command for it.
Request: TypeAlias = tuple[int, Command]


class Send(NamedTuple):
    """Send each command to its node, given by index; all are sent before any reply is read.

    Result: a list with the reply to each command, in the order of the requests.
    """

    requests: Sequence[Request]


class Sleep(NamedTuple):
    """Wait for ``seconds`` seconds."""

    seconds: float


class Load(NamedTuple):
    """Call the caller's loader.

    Result: the value that it returns. In asyncio the loader may return an awaitable.

    Attributes:
        loader: The loader.
        tokens: The tokens of the leases that are held meanwhile.
    """

    loader: Callable[[], Any]
    tokens: tuple[bytes, ...] = ()


class Ask(NamedTuple):
    """Call a function of the caller that is not a loader.

    Result: what it returns. In blocking code ``question`` is called, in asyncio ``async_question``.
    """

    question: Callable[[], Any]
    async_question: Callable[[], Awaitable[Any]]


Effect: TypeAlias = Send | Sleep | Load | Ask
T = TypeVar("T")
Operation: TypeAlias = Generator[Effect, Any, T]


def side_by_side(operations: Sequence[Operation[T]]) -> Operation[list[T | RingCacheError]]:
    """Run operations that only send commands in step: what each sends next goes out in one scatter.

    So operations that wait for different nodes wait at the same time. An operation that raises a
    RingCacheError has it as its result, and the others continue.
    """
    results: dict[int, T | RingCacheError] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(operations)))
    while True:
        sent: dict[int, Send] = {}
        for index, answer in answers.items():
            try:
                effect = operations[index].send(answer)
            except StopIteration as end:
                results[index] = end.value
            except RingCacheError as error:
                results[index] = error
            else:
                assert isinstance(effect, Send)  # noqa: S101  # the caller gives no other operations
                sent[index] = effect
        if not sent:
            return [results[index] for index in range(len(operations))]
        replies = iter((yield Send([request for send in sent.values() for request in send.requests])))
        answers = {index: [next(replies) for _ in send.requests] for index, send in sent.items()}


def resumed(operation: Operation[T], answer: Any) -> Operation[T]:
    """Continue an operation whose last effect was performed, with the result of that effect.

    So another operation may send what this one begins with in a scatter of its own.
    """
    step = partial(operation.send, answer)
    try:
        while True:
            effect = step()
            try:
                step = partial(operation.send, (yield effect))
            except BaseException as error:  # noqa: BLE001  # the operation handles it or raises it again
                step = partial(operation.throw, error)
    except StopIteration as end:
        result: T = end.value
        return result


def sharing_first_scatter(operations: Sequence[Operation[T]]) -> Operation[list[T]]:
    """Run operations one after the other; what they send first, which only reads, goes out in one scatter."""
    results: dict[int, T] = {}
    begun: dict[int, Effect] = {}
    try:
        for index, operation in enumerate(operations):
            try:
                begun[index] = next(operation)
            except StopIteration as end:
                results[index] = end.value
        sent = {index: effect for index, effect in begun.items() if isinstance(effect, Send)}
        requests = [request for send in sent.values() for request in send.requests]
        replies = iter((yield Send(requests)) if requests else ())
        answers = {index: [next(replies) for _ in send.requests] for index, send in sent.items()}
        for index, effect in begun.items():
            answer = answers[index] if index in answers else (yield effect)
            results[index] = yield from resumed(operations[index], answer)
    finally:
        for operation in operations:
            operation.close()
    return [results[index] for index in range(len(operations))]


class Continue(NamedTuple):
    """The result of a ``settle`` that needs more than one reply: the operation that does the rest.

    An operation on one key is a pair of pure functions: ``begin`` makes its request, and ``settle``
    reads the reply and returns the result, or a ``Continue``. A generator calls both; so does the
    client's path without a generator, for one command and one reply.
    """

    operation: Operation[Any]


class Script:
    """A Lua script, called by its SHA-1; a driver sends the source to a node that does not know it.

    Args:
        package: The package that contains the file.
        name: The file's name without ``.lua``.
        preludes: The names of files that are put before it.
        reply: The shape of what it returns.
        is_for_each_key: Whether it does the same for each of its KEYS, and returns the sum.
        is_promise: Whether its effect must not be lost with the server, if ``wait_replicas`` is set.
        writing: A promise that may write nothing has another script here, which does the same and writes in
            any case: WAIT is for the last write of its own connection. None: this one always writes.
        is_for_asked: Whether its reply means something only if the node that was asked has run it: then a
            redirection is not followed.
    """

    def __init__(
        self,
        package: str,
        name: str,
        *preludes: str,
        reply: Shape,
        is_for_each_key: bool = False,
        is_promise: bool = False,
        writing: Script | None = None,
        is_for_asked: bool = False,
    ) -> None:
        self.name, self.writing, self.is_for_asked = name, writing, is_for_asked
        self.reply = reply
        self.is_for_each_key, self.is_promise = is_for_each_key, is_promise
        parts = (*preludes, name)
        self.source = b"".join(_code(files(package).joinpath(f"{part}.lua").read_bytes()) for part in parts)

    @cached_property
    def sha(self) -> str:
        """The SHA-1 by which a node knows the script."""
        return sha1(self.source, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[bytes], *arguments: Argument) -> ScriptCall:
        """Return the command that runs the script with these KEYS and ARGV."""
        call = ScriptCall((b"EVALSHA", self.sha, b"%d" % len(keys), *keys, *arguments))
        call.script = self
        return call


def _code(text: bytes) -> bytes:
    """Return a script without indentation and comment lines: in a transaction each call sends the source."""
    lines = (line.strip() for line in text.splitlines())
    return b"".join(line + b"\n" for line in lines if line and not line.startswith(b"--"))


def is_promise(command: Command) -> bool:
    """Return whether the effect of a command must not be lost with its server."""
    if command.__class__ is ScriptCall:
        return command.script.is_promise
    return command[0] == b"FLUSHDB"


def is_unknown_script(reply: Reply) -> bool:
    """Return whether a reply says that the node does not know the script, and so ran nothing."""
    return reply.__class__ is NodeReplyError and reply.code == "NOSCRIPT"


class ScriptCall(tuple[Argument, ...]):
    """A command that runs a script."""

    script: Script

    @property
    def keys(self) -> tuple[Argument, ...]:
        """Its KEYS."""
        return self[3 : 3 + int(self[2])]

    def with_keys(self, *keys: Argument) -> ScriptCall:
        """Return the same call with other KEYS."""
        call = ScriptCall((*self[:2], b"%d" % len(keys), *keys, *self[3 + int(self[2]) :]))
        call.script = self.script
        return call

    @property
    def writing(self) -> ScriptCall:
        """The same call, of the script that writes in any case."""
        script = self.script.writing
        if script is None:
            return self
        call = ScriptCall((self[0], script.source if self[0] == b"EVAL" else script.sha, *self[2:]))
        call.script = script
        return call

    @property
    def with_source(self) -> ScriptCall:
        """The same call, with the script's source instead of its SHA-1."""
        call = ScriptCall((b"EVAL", self.script.source, *self[2:]))
        call.script = self.script
        return call

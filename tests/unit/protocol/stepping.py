"""Operations of the protocol, stepped by hand: the test plays the nodes."""

from __future__ import annotations

from typing import Any

from cachebackend.clock import TOKEN_BYTES
from cachebackend.codec import Codec
from cachebackend.counters import Counters, Counts
from cachebackend.effects import Operation, ScriptCall, Send
from cachebackend.errors import NodeUnavailableError
from cachebackend.options import RingOptions, WriteBehindOptions
from cachebackend.protocol import Context
from cachebackend.protocol.queue import QueueContext
from cachebackend.ring import Ring

DOWN = NodeUnavailableError("node 'b' is not reachable")
SENT_AND_LOST = NodeUnavailableError("node 'b' did not answer")
SENT_AND_LOST.was_sent = True


class StillClock:
    """A clock that moves only when the test moves it; its tokens are numbered."""

    def __init__(self) -> None:
        self.at, self.tokens = 1000.0, 0

    def now(self) -> float:
        return self.at

    monotonic = now

    def random(self) -> float:
        return 0.5

    def token(self) -> bytes:
        self.tokens += 1
        return b"%016d" % self.tokens


def context_of(*names: str, **options: Any) -> Context:
    """Return the context of a ring of named nodes that nothing connects to."""
    nodes = [f"redis://unused-{name}?name={name}" for name in names]
    clock = StillClock()
    made = RingOptions.read(nodes, {"early_refresh_beta": 0} | options, "CACHES")
    ring = Ring([(name, 1.0) for name in names])
    return Context(ring, Codec("auto"), made, clock, Counters(Counts))


def queue_of(*names: str, **options: Any) -> QueueContext:
    """Return the context of queue nodes that nothing connects to."""
    nodes = [f"redis://unused-{name}?name={name}" for name in names]
    made = WriteBehindOptions.read({"nodes": nodes} | options)
    return QueueContext(made, Ring([(name, 1.0) for name in names]), StillClock())


def key_at(context: Context | QueueContext, node: int, not_in: tuple[bytes, ...] = ()) -> bytes:
    """Return a key that a node owns."""
    keys = (b"key:%d" % number for number in range(1000))
    return next(key for key in keys if context.ring.owner(key) == node and key not in not_in)


def step(operation: Operation[Any], *replies: list[Any]) -> tuple[Any, list[list[Any]]]:
    """Answer each round trip of an operation; return its result and the requests of each round trip.

    A request is the index of a node and a command. A script's command is its name, keys and arguments.
    """
    requests: list[list[Any]] = []
    remaining = iter(replies)
    try:
        effect = next(operation)
        while True:
            assert isinstance(effect, Send)
            requests.append([(node, _words(command)) for node, command in effect.requests])
            answers = next(remaining)
            assert len(answers) == len(effect.requests), requests[-1]
            effect = operation.send(answers)
    except StopIteration as end:
        assert list(remaining) == [], "the operation ended before it read every reply"
        return end.value, requests


def _words(command: Any) -> tuple[Any, ...]:
    if isinstance(command, ScriptCall) and command[0] == b"EVALSHA":
        return (command.script.name, *command[3:])
    return tuple(command)


TOKEN = b"t" * TOKEN_BYTES

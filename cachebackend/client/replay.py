"""Runs the replay of a returning node over the connection of its probe."""

from __future__ import annotations

from collections.abc import Callable

from cachebackend.effects import Command, Operation, ScriptCall, Send
from cachebackend.node import Exchange
from cachebackend.protocol import Context
from cachebackend.protocol.missed_deletes import Outbox
from cachebackend.protocol.ring.replay import replay, replay_missed

__all__ = ["Replay"]


class Replay:
    """The replay of missed deletes to one node of a client.

    Args:
        context: The alias.
        node: The index of the node.
        endpoint: The name of the node in the outbox.
        outbox: Returns what stores missed deletes of all processes; None: nothing does.
    """

    def __init__(
        self, context: Context, node: int, endpoint: str, outbox: Callable[[], Outbox | None]
    ) -> None:
        self._context = context
        self._node = node
        self._endpoint = endpoint
        self._outbox = outbox

    def replay_all(self, exchange: Exchange) -> None:
        """Replay what this process has recorded, and what the outbox stores."""
        _run_over(exchange, replay(self._context, self._node, self._outbox(), self._endpoint))

    def replay_own(self, exchange: Exchange) -> None:
        """Replay what this process has recorded."""
        _run_over(exchange, replay(self._context, self._node, None, self._endpoint))

    def replay_rest(self, exchange: Exchange) -> None:
        """Replay what was recorded since."""
        _run_over(exchange, replay_missed(self._context, self._node))

    def is_complete(self) -> bool:
        """Return whether nothing is left to replay."""
        return self._context.missed.count(self._node) == 0 and not self.has_orphans()

    def has_orphans(self) -> bool:
        """Return whether the node may hold leases that this process has given up."""
        return bool(self._context.orphans.of(self._node))


def _run_over(exchange: Exchange, operation: Operation[None]) -> None:
    """Run an operation whose commands all go to one node, over that node's probe."""
    try:
        effect = next(operation)
        while isinstance(effect, Send):
            try:
                replies = exchange([_with_source(command) for _, command in effect.requests])
            except BaseException as error:  # noqa: BLE001  # for the operation to handle or to pass on
                effect = operation.throw(error)
            else:
                effect = operation.send(replies)
    except StopIteration:
        return


def _with_source(command: Command) -> Command:
    """Return a command that a node can run although it does not know the script yet."""
    return command.with_source if isinstance(command, ScriptCall) else command

"""How a node that is back is told what it missed, over the connection that found it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachebackend.effects import Command, Operation, ScriptCall, Send
from cachebackend.node import Exchange
from cachebackend.protocol.ring.replay import replay, replay_missed

if TYPE_CHECKING:
    from cachebackend.client.ring import RingClient

__all__ = ["Replay"]


class Replay:
    """What one node of a client is told when it is back."""

    def __init__(self, client: RingClient, node: int) -> None:
        self._client = client
        self._node = node

    def replay_all(self, exchange: Exchange) -> None:
        """Tell it what this process has noted, and what outboxes keep."""
        client = self._client
        _run_over(
            exchange, replay(client.context, self._node, client.outbox, client.nodes[self._node].endpoint)
        )

    def replay_rest(self, exchange: Exchange) -> None:
        """Tell it what was noted since."""
        _run_over(exchange, replay_missed(self._client.context, self._node))

    def is_complete(self) -> bool:
        """Return whether nothing is left to tell."""
        return self._client.context.missed.count(self._node) == 0


def _run_over(exchange: Exchange, operation: Operation[None]) -> None:
    """Run an operation whose commands are all for one node over that node's probe."""
    try:
        effect = next(operation)
        while isinstance(effect, Send):
            try:
                replies = exchange([_whole(command) for _, command in effect.requests])
            except BaseException as error:  # noqa: BLE001  # the operation's to handle or let pass
                effect = operation.throw(error)
            else:
                effect = operation.send(replies)
    except StopIteration:
        return


def _whole(command: Command) -> Command:
    """Return a command that a node runs though it knows no scripts yet."""
    return command.with_source if isinstance(command, ScriptCall) else command

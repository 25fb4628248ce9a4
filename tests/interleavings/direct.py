"""The client's methods for one key, made steppable: production runs them, without a generator.

The methods block, so each call runs in a greenlet. Its nodes do not send anything: they pass the
request to the explorer as an effect and wait for the reply, like an operation that yields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from cachebackend.client.single import SingleKeyClient
from cachebackend.drivers import FailedNodes
from cachebackend.effects import Command, Effect, Load, Operation, Send
from cachebackend.protocol import Context, FillOptions

__all__ = ["Call", "Client", "as_operation", "get_or_load"]


class Call(greenlet):
    """One call of a client's method."""

    is_abandoned = False

    def step(self, effect: Effect) -> Any:
        """Pass an effect to the explorer; return its outcome."""
        if self.is_abandoned:
            raise GreenletExit
        return self.parent.switch(effect)


def _step(effect: Effect) -> Any:
    call = getcurrent()
    assert isinstance(call, Call)
    return call.step(effect)


class _Node:
    """Passes the commands for one node to the explorer."""

    def __init__(self, index: int) -> None:
        self.index = index

    def call(self, command: Command) -> Any:
        [reply] = _step(Send([(self.index, command)]))
        return reply


class Client(SingleKeyClient):
    """A client of the explorer's two nodes."""

    def __init__(self, context: Context) -> None:
        self.context, self._near, self.counters = context, None, context.counters
        self._hits = set()
        self.nodes = (_Node(0), _Node(1))  # type: ignore[assignment]  # all that these methods use

    def probe_ejected(self) -> bool:
        """Leave missed deletes to the replay, which actors step."""
        return False

    def run(self, operation: Operation[Any], failed: FailedNodes | None = None) -> Any:
        """Step the operation that does the rest of a call; a node that has failed may be asked again."""
        try:
            effect = next(operation)
            while True:
                try:
                    outcome = _step(effect)
                except BaseException as error:  # noqa: BLE001  # for the operation to handle or to pass on
                    effect = operation.throw(error)
                else:
                    effect = operation.send(outcome)
        except StopIteration as end:
            return end.value


def as_operation(function: Callable[[], Any]) -> Operation[Any]:
    """Return an operation that yields the effects of a blocking call."""
    call = Call(function)
    outcome = call.switch()
    try:
        while not call.dead:
            try:
                result = yield outcome
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001  # for the call to handle or to pass on
                outcome = call.throw(error)
            else:
                outcome = call.switch(result)
    finally:
        if not call.dead:  # the explorer has abandoned the schedule
            call.is_abandoned = True
            call.throw(GreenletExit)
    return outcome


def get_or_load(
    context: Context, key: bytes, fill_options: FillOptions, *, had_value: bool
) -> Operation[Any]:
    """Return ``client.get_or_load`` of a key as an operation; the client may know that it had a value."""
    client = Client(context)
    client._hits = {key} if had_value else set()

    def loader() -> Any:
        return _step(Load(lambda: None))

    return as_operation(lambda: client.get_or_load(key, loader, fill_options))

"""redis-py's client of one key of a cluster: for locks, and for commands of the project's own.

redis-py has a client of whole clusters, too. It needs every slot to have an owner, loads scripts into every
primary, repeats commands whose reply did not come, and reads the topology for each lock. So one server that
is down would take the locks of all others away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol, TypeAlias

import redis.exceptions

from cachebackend.errors import RedirectedError
from cachebackend.node.clients import RedisClient
from cachebackend.node.translate import readable

__all__ = ["SlotClient"]

Address: TypeAlias = tuple[str, int]
#: The most servers to which one command is redirected.
_MAX_REDIRECTIONS = 5


class Table(Protocol):
    """The part of a cluster that its clients use."""

    def primary_of(self, slot: int) -> Address:
        """Return host and port of the server that has a slot; an OSError says that no server answers."""
        ...

    def reached_at(self, asked: Address, redirection: RedirectedError) -> Address | None:
        """Return where this process reaches the server that a redirection names; None: it is not known."""
        ...

    def look_for(self, servers: Collection[Hashable]) -> None:
        """Read the topology to find servers that it lacks, by a name for each of them."""
        ...

    def reload_soon(self) -> None:
        """Read the topology in another thread, unless one does so already."""
        ...

    def note_unserved(self) -> None:
        """Read the topology in another thread, unless that was done in the last second."""
        ...


class SlotClient(RedisClient):
    """A client of the server that has a slot now. Each command is sent to it, and follows redirections.

    Commands of a pipeline, subscriptions and MONITOR go to the server of the slot and follow none.

    Args:
        table: The cluster.
        slot: The slot.
        client_at: Returns a client of the server at a host and port.

    Raises:
        OSError: No server of the cluster answers.
    """

    def __init__(self, table: Table, slot: int, client_at: Callable[[str, int], RedisClient]) -> None:
        self._table, self._slot, self._client_at = table, slot, client_at
        self._clients: dict[Address, RedisClient] = {}
        #: The sources of scripts, by their hash.
        self._scripts: dict[str, Any] = {}
        super().__init__(connection_pool=self._at(table.primary_of(slot)).connection_pool)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, where it is redirected to, and return its reply."""
        address, is_ask = self._follow_slot(), False
        for _ in range(_MAX_REDIRECTIONS):
            try:
                return self._sent(address, args, options, is_ask=is_ask)
            except redis.exceptions.AskError as error:  # MOVED is one of them
                is_ask = not isinstance(error, redis.exceptions.MovedError)
                address = self._redirected(address, error, is_ask=is_ask)
        return self._sent(address, args, options, is_ask=is_ask)

    def script_load(self, script: Any) -> Any:
        """Load a script into the server of the slot; return its hash."""
        sha = super().script_load(script)
        self._scripts[_text(sha)] = script
        return sha

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script. One that this client has loaded may be unknown to the server that has the key now."""
        script = self._scripts.get(_text(sha))
        if script is None:
            return super().evalsha(sha, numkeys, *keys_and_args)
        return self.eval(script, numkeys, *keys_and_args)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Return a pipeline to the server of the slot."""
        self._follow_slot()
        return super().pipeline(*args, **options)

    def _follow_slot(self) -> Address:
        """Use the server that has the slot now; return its address."""
        address = self._table.primary_of(self._slot)
        self.connection_pool = self._at(address).connection_pool
        return address

    def _at(self, address: Address) -> RedisClient:
        if address not in self._clients:
            self._clients[address] = self._client_at(*address)
        return self._clients[address]

    def _sent(self, address: Address, args: Any, options: Any, *, is_ask: bool) -> Any:
        try:
            with readable():
                return _reply(self._at(address), args, options, is_ask=is_ask)
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            self._table.reload_soon()  # a replica may be promoted: the next command is sent to it
            raise
        except redis.exceptions.ClusterDownError:
            self._table.note_unserved()
            raise

    def _redirected(self, asked: Address, error: redis.exceptions.AskError, *, is_ask: bool) -> Address:
        """Return where to send a command that a server has redirected."""
        with readable():
            redirection = RedirectedError.read(f"{'ASK' if is_ask else 'MOVED'} {error.args[0]}")
        if not is_ask:
            owner = self._table.primary_of(redirection.slot)
            if owner == asked:
                self._table.look_for([(asked, redirection.host, redirection.port)])
                owner = self._table.primary_of(redirection.slot)
            if owner != asked:
                return owner
            # The other servers have not heard yet that the slot has moved
        if (address := self._table.reached_at(asked, redirection)) is None:
            raise error
        return address


def _reply(client: RedisClient, args: Any, options: Any, *, is_ask: bool) -> Any:
    """Return a server's reply to a command, which comes after ASKING if the slot is being moved there."""
    if not is_ask:
        return client.execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py
    with client.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ASKING")  # type: ignore[no-untyped-call]  # redis-py
        pipeline.execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py
        _, reply = pipeline.execute(raise_on_error=False)
    if isinstance(reply, Exception):
        raise reply
    return reply


def _text(sha: str | bytes) -> str:
    return sha.decode() if isinstance(sha, bytes) else sha

"""The handshake: a connection logs in, selects its database, and its user's rights are checked.

All commands are sent together. Every delete is a script, and a fill is not. A user that may write but not
run scripts could fill values that it could never delete, so its connection is refused. A user that may only
read is not.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.imports import import_at_first_use
from cachebackend.node.endpoint import Endpoint, Locator
from cachebackend.node.login import Login, remove_frames
from cachebackend.node.translate import HandshakeError
from cachebackend.options import Password

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient

__all__ = ["CLIENT_NAME", "Handshake"]

#: The name of our connections in ``CLIENT LIST``.
CLIENT_NAME = "ringcache"


class _NoScript:
    """A script that no node has: only an error is a reply to it."""

    @staticmethod
    def reply(_reply: Reply, _command: Any) -> bool:
        """Match nothing."""
        return False


def _no_script() -> ScriptCall:
    call = ScriptCall((b"EVALSHA", b"0" * 40, b"0"))
    call.script = _NoScript  # type: ignore[assignment]  # a node never gets its source
    return call


#: Asks whether the user may run scripts, and whether it may write; both commands change nothing.
_RIGHTS: tuple[Command, Command] = (_no_script(), (b"SET", b"ringcache:rights", b"", b"XX"))


class Handshake:
    """Opens connections to one node, and makes them ready for commands.

    Args:
        url: The node's URL.
        connect_timeout: The most seconds that connecting may take.
        socket_timeout: The most seconds that each reply may take.
        password: The password, or a function that returns it, if the URL has none.
        locator: Finds host and port of the node; None: the URL has them, or names sentinels.
        name: The node's name, for errors.
    """

    def __init__(
        self,
        url: str,
        connect_timeout: float,
        socket_timeout: float,
        password: Password | None = None,
        locator: Locator | None = None,
        *,
        name: str = "",
    ) -> None:
        self.name = name
        self._endpoint = endpoint = Endpoint(url, connect_timeout, socket_timeout, locator)
        self._timeouts = connect_timeout, socket_timeout
        password = endpoint.password or password
        has_login = bool(endpoint.username or password)
        #: The user and password; None: the node asks for none.
        self.login = Login(endpoint.username, password or "") if has_login else None
        self.connect, self.connect_async = endpoint.connect, endpoint.connect_async

    def perform(self, exchange: Callable[[Sequence[Command]], Iterable[Reply]]) -> None:
        """Perform the handshake on a new connection.

        Args:
            exchange: Sends commands, and yields the reply to each.

        Raises:
            OSError: The node refused it, or the connection failed. No frame of the error has the password.
        """
        handled = sys.exception()
        try:
            commands = self._commands(self.login.get_credentials() if self.login else ())
            _check(commands, exchange(commands))
        except BaseException as error:  # noqa: BLE001  # it is raised again
            raise remove_frames(error, handled)  # noqa: B904  # it is the same error

    async def perform_async(self, submit: Callable[[Sequence[Command]], Awaitable[list[Reply]]]) -> None:
        """Perform the handshake on a new connection of the running event loop.

        Args:
            submit: Sends commands, and returns an awaitable of their replies.

        Raises:
            OSError: As for ``perform``.
        """
        handled = sys.exception()
        try:
            commands = self._commands(await self.login.get_credentials_async() if self.login else ())
            # One by one: a node that refuses the first one may close the connection before the others
            sent = [submit([command]) for command in commands]
            _check(commands, map(_reply_in, await asyncio.gather(*sent, return_exceptions=True)))
        except BaseException as error:  # noqa: BLE001  # it is raised again
            raise remove_frames(error, handled)  # noqa: B904  # it is the same error

    @property
    def may_move(self) -> bool:
        """Whether the address may change: a replica takes over when its primary fails."""
        return self._endpoint.may_move

    def client(self) -> RedisClient:
        """Return a redis-py client; behind Sentinel it is a client of the present primary.

        Raises:
            OSError: No sentinel knows the primary.
        """
        clients = import_at_first_use("cachebackend.node.clients")  # it imports redis-py
        client: RedisClient = clients.client_of(self._endpoint, self.login, *self._timeouts)
        return client

    def _commands(self, login: Sequence[str]) -> list[Command]:
        commands: list[Command] = [(b"AUTH", *login)] if login else []
        commands.append((b"CLIENT", b"SETNAME", CLIENT_NAME))
        if self._endpoint.database:
            commands.append((b"SELECT", b"%d" % self._endpoint.database))
        return [*commands, *_RIGHTS]


def _reply_in(outcome: list[Reply] | BaseException) -> Reply:
    """Return the only reply of a batch; raise the error of its connection."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]


def _check(commands: Sequence[Command], replies: Iterable[Reply]) -> None:
    """Check the replies to the commands of a handshake, each one before the next is read.

    Raises:
        HandshakeError: The node refused one of the commands, or the user's rights are not enough.
    """
    rights = []
    for reply, command in zip(replies, commands, strict=True):
        if command in _RIGHTS:
            rights.append(reply)
        elif isinstance(reply, RingCacheError) and (reason := _refusal(command[0], reply)):
            raise HandshakeError(reason) from reply
    may_run_scripts, may_write = (not _is_denied(reply) for reply in rights)
    if may_write and not may_run_scripts:
        message = "lets its user write but not run scripts, which every delete needs: grant +@scripting"
        raise HandshakeError(message)


def _refusal(command: object, error: RingCacheError) -> str | None:
    """Return why a node refuses a connection, by its error; None: it only hides the connection's name."""
    text = str(error).rpartition(" cannot serve: ")[2]  # the message of a HandshakeError follows the name
    if "max number of clients" in text:
        return "accepts no more connections (its maxclients)"
    if command == b"AUTH" or "NOAUTH" in text:
        return "refused the user or password"
    if "DB index is out of range" in text or "Invalid Database" in text:
        return "has no such database"
    is_hidden = command == b"CLIENT" and isinstance(error, NodeReplyError) and error.code == "NOPERM"
    return None if is_hidden else f"refused the connection: {text}"


def _is_denied(reply: Reply) -> bool:
    """Return whether a reply refuses the command, not only the key: the user may write other keys."""
    is_denied = isinstance(reply, NodeReplyError) and reply.code == "NOPERM"
    return is_denied and "permissions to access" not in str(reply)

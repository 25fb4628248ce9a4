"""The user and password of a node. No ``repr`` and no frame of an error shows them."""

from __future__ import annotations

from cachebackend.interrupts import note_interrupt, raise_interrupt
from cachebackend.options import Password, is_encodable
from cachebackend.threads import call_in_thread

__all__ = ["Login", "remove_frames"]


class _Secret(str):
    """A text that ``repr`` does not show: local variables have it, which error pages print."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Login:
    """The user and password that are sent with each new connection; redis-py calls it a credential provider.

    Args:
        username: The user; None: the node's default user.
        password: The password, or a function without arguments that returns it. The function may also
            return a user and a password. It is called for each connection.
    """

    def __init__(self, username: str | None, password: Password) -> None:
        self._username, self._password = username, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the password, or the user and the password.

        Raises:
            ConnectionError: The function failed, or returned something else.
        """
        given: object = self._password
        if callable(given):
            try:
                given = given()
            except Exception as error:
                raise_interrupt(error)
                message = f"the function that returns its password raised {type(error).__name__}"
                raise ConnectionError(message) from error
        words = (given,) if isinstance(given, str) else given
        if (
            not isinstance(words, tuple | list)
            or len(words) not in {1, 2}
            or not all(isinstance(word, str) for word in words)
        ):
            message = "the function that returns its password returned neither a text nor a user and a text"
            raise ConnectionError(message)
        if not all(map(is_encodable, words)):
            message = "the function that returns its password returned a text that is not valid Unicode"
            raise ConnectionError(message)
        user = self._username if len(words) == 1 else words[0]
        password = _Secret(words[-1])
        return (_Secret(user), password) if user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return the same; a function is called in another thread, because it may wait for a server."""
        if callable(self._password):
            return await call_in_thread(self.get_credentials)
        return self.get_credentials()


def remove_frames(error: BaseException, handled: BaseException | None) -> BaseException:
    """Return an error of a handshake without its frames: error pages show their local variables.

    Local variables have the password, as text and in the bytes that are sent. Libraries may raise an error of
    their own for an OSError that a signal handler raises; then the OSError is returned.

    Args:
        error: The error, of which the causes lose their frames too.
        handled: The error that the caller was handling before, which keeps its frames.
    """
    interrupt: BaseException | None = None
    rest: list[BaseException | None] = [error]
    seen: list[BaseException | None] = [None, handled]
    while rest:
        each = rest.pop()
        if each is not None and each not in seen:
            seen.append(each)
            if note_interrupt(each):
                interrupt = each
            each.__traceback__ = None
            rest += [each.__cause__, each.__context__]
    return interrupt or error

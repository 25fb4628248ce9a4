"""The login of a node, and the frames of an error."""

from __future__ import annotations

import asyncio

import pytest

from cachebackend.node.login import Login, remove_frames
from tests.threadless import threadless


@pytest.mark.parametrize(
    ("username", "password", "sent"),
    [
        (None, "p", ("p",)),
        ("u", "p", ("u", "p")),
        ("u", lambda: "p", ("u", "p")),
        ("u", lambda: ["other", "p"], ("other", "p")),
        ("u", lambda: ("p",), ("u", "p")),
    ],
)
def test_a_login_is_a_password_or_a_user_and_a_password(
    username: str | None, password: object, sent: tuple[str, ...]
) -> None:
    """A function may return both; its user replaces that of the URL. The same in an event loop."""
    login = Login(username, password)  # type: ignore[arg-type]  # of each kind
    assert login.get_credentials() == sent
    assert asyncio.run(login.get_credentials_async()) == sent


def test_a_function_is_called_in_the_event_loop_if_no_thread_can_start() -> None:
    """The process is at its limit of threads, or ends."""

    async def ask() -> object:
        with threadless():
            return await Login("u", lambda: "p").get_credentials_async()

    assert asyncio.run(ask()) == ("u", "p")


def test_no_repr_shows_a_login() -> None:
    """Neither that of the login nor that of what redis-py sends."""
    login = Login("alice", "hunter2")
    shown = repr(login) + repr(login.get_credentials())
    assert "alice" not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("returned", [None, 7, b"p", (), ("a", "b", "c"), (1, 2)])
def test_a_function_that_returns_something_else_is_a_failed_connection(returned: object) -> None:
    """The message does not show what it returned."""
    with pytest.raises(ConnectionError, match="neither a text nor a user and a text"):
        Login(None, lambda: returned).get_credentials()  # type: ignore[arg-type, return-value]


def test_an_error_and_its_causes_lose_their_frames() -> None:
    """An error that the caller was handling before keeps its own."""
    with pytest.raises(KeyError) as handled:
        {}["before"]
    with pytest.raises(ValueError, match="outer") as raised:
        try:
            raise handled.value
        except KeyError:
            try:
                int("x")
            except ValueError as error:
                raise ValueError("outer") from error
    assert remove_frames(raised.value, handled.value) is raised.value
    assert raised.value.__traceback__ is None
    assert raised.value.__cause__ is not None
    assert raised.value.__cause__.__traceback__ is None
    assert handled.value.__traceback__ is not None

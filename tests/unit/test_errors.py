"""Errors, and what their messages say."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from cachebackend import errors
from cachebackend.errors import (
    ConfigurationError,
    NodeReplyError,
    NodeUnavailableError,
    RedirectedError,
    RingCacheError,
    WriteBehindMovedError,
    WriteBehindPartialError,
    WriteBehindUnknownError,
)

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_a_ring_cache_error_with_a_name_of_its_own(kind: type[Exception]) -> None:
    """So a caller can catch all of them; none hides a builtin."""
    assert issubclass(kind, RingCacheError)
    assert kind.__name__.endswith("Error")
    assert kind.__name__ in errors.__all__


#: Arguments of the errors that take more than a message.
ARGUMENTS: dict[type[Exception], tuple[tuple[Any, ...], dict[str, Any]]] = {
    ConfigurationError: ((["one", "two"],), {}),
    WriteBehindMovedError: (("moved",), {"is_closed": True}),
    WriteBehindPartialError: (({7: ValueError("full")},), {}),
}


@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_can_be_pickled(kind: type[Exception], copied: Callable[[Any], Any]) -> None:
    """Celery's results and parallel tests send errors to other processes."""
    args, named = ARGUMENTS.get(kind, (("the message",), {}))
    error = kind(*args, **named)
    error.add_note("a note")
    again = copied(error)
    assert (type(again), str(again), again.__dict__.keys()) == (kind, str(error), error.__dict__.keys())
    assert repr(again.__dict__) == repr(error.__dict__)


def test_the_docstring_is_the_default_message() -> None:
    """Where nothing more is known."""
    assert str(NodeUnavailableError()) == NodeUnavailableError.__doc__
    assert str(NodeUnavailableError("node 'a' is down")) == "node 'a' is down"


def test_a_configuration_error_has_every_fault() -> None:
    """A line each."""
    error = ConfigurationError(["one", "two"])
    assert (error.faults, str(error)) == (("one", "two"), "one\ntwo")


def test_the_code_of_a_reply_is_its_first_word() -> None:
    """As servers write them."""
    assert NodeReplyError("NOSCRIPT No matching script").code == "NOSCRIPT"


def test_it_may_be_known_that_a_node_got_the_commands() -> None:
    """Then they may have been run; a write-behind error always says so."""
    assert not NodeUnavailableError().was_sent
    assert WriteBehindUnknownError("x").was_sent
    assert issubclass(WriteBehindUnknownError, NodeUnavailableError)


def test_a_partial_error_names_one_row_and_counts_all() -> None:
    """Each has its own error."""
    error = WriteBehindPartialError({7: ValueError("full"), 8: ValueError("gone")})
    assert "2 rows" in str(error)
    assert "7: full" in str(error)
    assert list(error.errors) == [7, 8]


def test_a_redirection_has_the_parts_of_its_text() -> None:
    """A host may be missing or be an IPv6 address; the message says how to write the URL of a cluster."""
    moved = RedirectedError.read("MOVED 3999 10.0.0.1:6381")
    assert (moved.code, moved.is_moved, moved.slot, moved.host, moved.port) == (
        "MOVED",
        True,
        3999,
        "10.0.0.1",
        6381,
    )
    assert "redis+cluster://" in str(moved)
    ask = RedirectedError.read("ASK 1 [::1]:1")
    assert (ask.is_moved, ask.host) == (False, "::1")
    assert RedirectedError.read("MOVED 1 :6381").host == ""
    assert RedirectedError.read("MOVED 1 ?:6381").host == "?"
    with pytest.raises(ValueError, match="16,384 slots"):
        RedirectedError.read("MOVED 16384 a:1")
    with pytest.raises(ValueError, match="not enough values"):
        RedirectedError.read("MOVED 1")

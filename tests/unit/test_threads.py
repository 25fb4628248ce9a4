"""Blocking calls of an event loop, also if no thread can start."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from cachebackend.threads import call_in_thread, is_thread_refused
from tests.threadless import threadless

number = ContextVar("number", default=0)


def test_a_function_runs_in_another_thread_and_in_the_context_of_its_caller() -> None:
    """As ``asyncio.to_thread`` does."""
    number.set(7)
    value, thread = asyncio.run(call_in_thread(lambda: (number.get(), threading.get_ident())))
    assert value == 7
    assert thread != threading.get_ident()


def test_a_function_runs_in_the_event_loop_if_no_thread_can_start() -> None:
    """The event loop waits for it; the call does not fail."""

    async def call() -> int:
        with threadless():
            return await call_in_thread(threading.get_ident)

    assert asyncio.run(call()) == threading.get_ident()


def test_a_function_runs_in_the_event_loop_while_the_interpreter_ends() -> None:
    """The pool of threads takes no more calls."""

    async def call() -> int:
        pool = ThreadPoolExecutor()
        pool.shutdown()
        asyncio.get_running_loop().set_default_executor(pool)
        return await call_in_thread(threading.get_ident)

    assert asyncio.run(call()) == threading.get_ident()


@pytest.mark.parametrize("message", ["can't start new thread", "of the function"])
def test_an_error_of_the_function_is_raised(message: str) -> None:
    """The function is called once, also if its own error has such a message."""
    calls = []

    def fail() -> None:
        calls.append(message)
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        asyncio.run(call_in_thread(fail))
    assert calls == [message]


def test_other_errors_do_not_mean_that_no_thread_can_start() -> None:
    """Such as that of a closed event loop."""
    assert is_thread_refused(RuntimeError("can't create new thread at interpreter shutdown"))
    assert not is_thread_refused(RuntimeError("Event loop is closed"))
    assert not is_thread_refused(OSError("can't start new thread"))

"""Work of commands in databases that answer, fail or hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
from django.db import IntegrityError, OperationalError

from cachebackend.invalidation.outbox_databases import Answers
from cachebackend.management import database_work
from cachebackend.management.database_work import in_database


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What the work waits for; set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the database again and again, and remember no hanging thread of another test."""
    monkeypatch.setattr(database_work, "CHECK_SECONDS", 0.001)
    monkeypatch.setattr(database_work, "is_private", lambda _: False)
    monkeypatch.setattr(database_work, "_left", {})


def let_answer(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Exception | None]) -> None:
    """Replace the answers of the database to the checks: an error, or None."""

    def ask(_: object, __: float, aliases: Iterable[str]) -> Answers[int]:
        [using] = aliases
        error = answer()
        return Answers({using: 1}, {}) if error is None else Answers({}, {using: error})

    monkeypatch.setattr(database_work, "ask_databases", ask)


@pytest.mark.parametrize("error", [None, OperationalError("too many clients already")])
def test_work_takes_as_long_as_it_needs_while_the_database_answers(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event, error: Exception | None
) -> None:
    """An error is an answer, too."""
    answers = iter([error] * 3)

    def answer() -> Exception | None:
        each = next(answers, StopIteration())
        if isinstance(each, StopIteration):
            released.set()
            return error
        return each

    let_answer(monkeypatch, answer)
    assert in_database("default", lambda: released.wait(60)) is True
    assert list(answers) == []


def test_work_ends_when_the_database_answers_nothing(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    """Further work fails at once while the thread waits, and is done when the database has answered it."""
    let_answer(monkeypatch, lambda: TimeoutError("no answer within 2 s"))
    with pytest.raises(OperationalError, match="the database 'default' does not answer: no answer within 2"):
        in_database("default", lambda: released.wait(60))
    with pytest.raises(OperationalError, match="does not answer: earlier work waits for it"):
        in_database("default", lambda: pytest.fail("it is not begun"))
    released.set()
    database_work._left["default"].join(60)
    assert in_database("default", lambda: 7) == 7


def test_the_error_of_the_work_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the caller's own thread."""
    let_answer(monkeypatch, lambda: None)

    def fail() -> None:
        message = "duplicate key"
        raise IntegrityError(message)

    with pytest.raises(IntegrityError, match="duplicate key"):
        in_database("default", fail)


def test_work_in_the_transaction_of_the_caller_is_done_by_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other thread sees what the transaction has written."""
    monkeypatch.setattr(database_work, "is_private", lambda _: True)
    assert in_database("default", threading.current_thread) is threading.current_thread()

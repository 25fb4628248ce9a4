"""Which pending deletes a node has missed."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, ProgrammingError

from cachebackend.invalidation.outbox_databases import Answers, Server
from cachebackend.monitoring import outbox, outbox_figures
from cachebackend.monitoring.outbox import PendingRow, count_missed

A, B, C = 0, 1, 2


def answering(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """Let each database answer, or fail, with what is given."""
    found = {using: each for using, each in answers.items() if not isinstance(each, Exception)}
    errors = {using: each for using, each in answers.items() if isinstance(each, Exception)}
    monkeypatch.setattr(outbox, "ask_databases", lambda *_: Answers(found, errors))


def server(*identity: str) -> Server:
    return Server(is_replica=False, is_read_only=False, identity=identity)


@pytest.mark.parametrize(("lag", "faults"), [(0.0, 0), (10.0, 0), (12.5, 1)])
def test_a_delete_that_is_pending_for_long_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, lag: float, faults: int
) -> None:
    """It says for how long, and how to send it; the age of the oldest decides, not their number."""
    answering(monkeypatch, default=outbox._Outbox(server("a"), lag, 7))
    figures = outbox_figures()
    assert (figures.lag, figures.rows, len(figures.faults)) == (lag, 7, faults)
    for fault in figures.faults:
        assert fault.message.startswith("Deletes have been pending for 12 s: a node does not answer, or")


def test_the_fault_of_pending_deletes_names_the_nodes_that_do_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not ask what the caller knows; a node of two aliases is named once."""
    answering(monkeypatch, default=outbox._Outbox(server("a"), 12.5, 7))
    [fault] = outbox_figures(["ring-b", "ring-a", "ring-b"]).faults
    assert fault.message == (
        "Deletes have been pending for 12 s: these nodes do not answer: ring-a, ring-b. "
        "Their deletes are sent when they are back."
    )


@pytest.mark.parametrize(
    ("nodes", "is_relay_late", "text", "way_out"),
    [
        (["ring-b"], True, "no relay runs; those of ring-b wait for these nodes too.", "Start what runs"),
        ([], True, "no relay runs.", "Start what runs the relay"),
        (
            [],
            False,
            "although every node answers this process and the relay runs.",
            "Read the log of the worker",
        ),
        ([], None, "a node does not answer, or no relay runs.", "Send them now"),
    ],
)
def test_pending_deletes_say_what_they_wait_for(
    monkeypatch: pytest.MonkeyPatch, nodes: list[str], is_relay_late: bool | None, text: str, way_out: str
) -> None:
    """Without the relay they stay pending, also when each node is back."""
    answering(monkeypatch, default=outbox._Outbox(server("a"), 12.5, 7))
    [fault] = outbox_figures(nodes, is_relay_late=is_relay_late).faults
    assert fault.message.endswith(text)
    assert fault.way_out.startswith(way_out)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TimeoutError("no answer within 3 s"), "does not answer (database 'default'): no answer within 3 s"),
        (OperationalError("refused\nIs it running?"), "does not answer (database 'default'): refused"),
        (ProgrammingError("no table"), "The outbox of database 'default' cannot be read: no table"),
    ],
)
def test_the_fault_of_a_database_says_whether_it_answers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """And since when it does not, as far as this process knows."""
    answering(monkeypatch, default=error)
    monkeypatch.setattr(outbox, "unanswered_since", lambda using: 7.0)
    [fault] = outbox_figures().faults
    assert fault.message.endswith(message)
    assert fault.since == 7.0


def test_a_database_that_does_not_answer_leaves_the_figures_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is reported as the fault, by its alias; what the others hold is reported too."""
    away = OperationalError("the connection is closed")
    answering(monkeypatch, analytics=outbox._Outbox(server("a"), 12.5, 7), default=away)
    figures = outbox_figures()
    assert (figures.lag, figures.rows) == (None, None)
    messages = [fault.message for fault in figures.faults]
    assert messages[0].endswith(" does not answer (database 'default'): the connection is closed")
    assert messages[1].startswith("Deletes have been pending for 12 s")


def test_a_database_with_two_aliases_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a pooler and without, or with a role that may only read; a replica has no outbox of its own."""
    answers = {
        "default": outbox._Outbox(server("a"), 1.0, 7),
        "direct": outbox._Outbox(server("a"), 1.0, 7),
        "other": outbox._Outbox(server("b"), 2.0, 1),
        "replica": outbox._Outbox(),
    }
    answering(monkeypatch, **answers)
    figures = outbox_figures()
    assert (figures.lag, figures.rows) == (2.0, 8)


def test_a_row_that_is_set_aside_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the database and the error, and how to delete the row."""
    errors = ["a change of shop.gone (unknown)"]
    answering(monkeypatch, default=outbox._Outbox(server("a"), 0.0, 0, errors, 5.0))
    figures = outbox_figures()
    assert (figures.lag, figures.rows) == (0.0, 0)
    [fault] = figures.faults
    assert fault.message == (
        "One row of the outbox of database 'default' cannot be read; nothing is stale: "
        "a change of shop.gone (unknown)"
    )
    assert "invalidation discard" in fault.way_out
    assert fault.since == 5.0


def row(*, overdue: bool, all_keys: bool = False, **keys: int) -> PendingRow:
    """Return a row with the given number of keys on each of the nodes a, b and c."""
    nodes = {"a": A, "b": B, "c": C}
    held = {nodes[name]: {f"{name}{n}".encode() for n in range(count)} for name, count in keys.items()}
    return PendingRow(held, all_keys, overdue)


def test_a_node_that_answers_has_missed_overdue_rows() -> None:
    """Nothing but a missed delete explains such a row."""
    assert count_missed([row(overdue=True, b=2)], [True, True, True], [100] * 3) == [0, 2, 0]


@pytest.mark.parametrize("is_up", [(True, True, True), (False, True, True)])
def test_a_young_row_is_not_a_missed_delete(is_up: tuple[bool, ...]) -> None:
    """Its writer is confirming it; the same holds while another node is down and keeps old rows."""
    rows = [row(overdue=False, b=3), row(overdue=True, a=0)]
    assert count_missed(rows, is_up, [100] * 3) == [0, 0, 0]


def test_a_row_that_waits_for_another_node_is_not_a_missed_delete() -> None:
    """One transaction changed keys of a dead node and of a healthy one, which has long confirmed."""
    assert count_missed([row(overdue=True, a=1, b=1, c=1)], [False, True, True], [100] * 3) == [1, 0, 0]


def test_a_node_that_does_not_answer_has_missed_young_rows_too() -> None:
    """It cannot have confirmed them."""
    assert count_missed([row(overdue=False, a=2, b=1)], [False, True, True], [100] * 3) == [2, 0, 0]


def test_a_key_of_many_rows_counts_once() -> None:
    """The key is deleted only once."""
    assert count_missed([row(overdue=True, a=2)] * 3, [True, True, True], [100] * 3) == [2, 0, 0]


@pytest.mark.parametrize("limit", [3, 2])
def test_more_than_the_limit_is_all(limit: int) -> None:
    """So is a node that missed a clear: it must delete every key."""
    rows = [row(overdue=True, a=3), row(overdue=True, all_keys=True, c=0)]
    assert count_missed(rows, [True, True, True], [limit] * 3) == [3 if limit == 3 else "all", 0, "all"]

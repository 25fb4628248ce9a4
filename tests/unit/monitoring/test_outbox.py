"""Which pending deletes a node has missed."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from cachebackend.monitoring import outbox, outbox_figures
from cachebackend.monitoring.outbox import PendingRow, count_missed

A, B, C = 0, 1, 2


@pytest.mark.parametrize(("lag", "faults"), [(0.0, 0), (10.0, 0), (12.5, 1)])
def test_a_delete_that_is_pending_for_long_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, lag: float, faults: int
) -> None:
    """It says for how long, and how to send it; the age of the oldest decides, not their number."""
    monkeypatch.setattr(outbox, "outbox_lag", lambda _: lag)
    monkeypatch.setattr(outbox, "has_outbox", lambda _: True)
    monkeypatch.setattr(outbox, "connections", ["default"])
    monkeypatch.setattr(outbox.OutboxRow, "objects", Rows())
    figures = outbox_figures()
    assert (figures.lag, figures.rows, len(figures.faults)) == (lag, 7, faults)
    for fault in figures.faults:
        assert fault.message.startswith("Deletes have been pending for 12 s: is every node up")


def test_the_fault_of_pending_deletes_names_the_nodes_that_do_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not ask what the caller knows; a node of two aliases is named once."""
    monkeypatch.setattr(outbox, "outbox_lag", lambda _: 12.5)
    monkeypatch.setattr(outbox, "has_outbox", lambda _: True)
    monkeypatch.setattr(outbox, "connections", ["default"])
    monkeypatch.setattr(outbox.OutboxRow, "objects", Rows())
    [fault] = outbox_figures(["ring-b", "ring-a", "ring-b"]).faults
    assert fault.message == (
        "Deletes have been pending for 12 s: these nodes do not answer: ring-a, ring-b. "
        "Their deletes are sent when they are back."
    )


def test_a_database_that_does_not_answer_leaves_the_figures_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is reported as the fault."""
    monkeypatch.setattr(outbox, "has_outbox", lambda _: True)
    monkeypatch.setattr(outbox, "connections", ["default"])

    def refuse(_: str) -> float:
        message = "the connection is closed"
        raise OperationalError(message)

    monkeypatch.setattr(outbox, "outbox_lag", refuse)
    figures = outbox_figures()
    assert (figures.lag, figures.rows) == (None, None)
    assert [fault.message for fault in figures.faults] == [
        "The outbox cannot be read: the connection is closed"
    ]


class Rows:
    """A manager of an outbox with seven rows."""

    def using(self, _: str) -> Rows:
        return self

    def count(self) -> int:
        return 7


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

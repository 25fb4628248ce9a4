"""Which errors of Postgres are a row's own."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, DataError, OperationalError

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.writebehind.refusals import LOCKED, TOO_SLOW, Refusal, refusal_of


class PostgresError(Exception):
    """An error of psycopg."""

    sqlstate: str | None = None


def error_with(sqlstate: str | None) -> DatabaseError:
    error = DatabaseError("no")
    error.__cause__ = PostgresError()
    error.__cause__.sqlstate = sqlstate
    return error


@pytest.mark.parametrize(
    "sqlstate", ["22003", "23503", "42501", "55P03", "44000", "45000", "54000", "P0001", "0A000"]
)
def test_any_other_sqlstate_may_be_a_rows_own(sqlstate: str) -> None:
    """Triggers may raise what they like."""
    assert refusal_of(error_with(sqlstate)) == Refusal("no", sqlstate)


@pytest.mark.parametrize(
    "sqlstate", ["08006", "25006", "40001", "40P01", "53200", "55006", "57P01", "58030", "XX001"]
)
def test_errors_of_the_server_and_of_other_transactions_are_not_a_rows_own(sqlstate: str) -> None:
    """The batch is retried as it is, until it has failed so again and again; then the row waits."""
    assert refusal_of(error_with(sqlstate)) is None
    refusal = refusal_of(error_with(sqlstate), is_repeated=True)
    assert refusal == Refusal("no", sqlstate)
    assert refusal.waits


def test_a_statement_that_takes_too_long_is_tried_with_fewer_rows() -> None:
    """A single row that takes too long waits."""
    assert refusal_of(error_with(TOO_SLOW)) == Refusal("no", TOO_SLOW)
    assert Refusal("no", TOO_SLOW).waits


def test_without_an_sqlstate_only_bad_data_is_a_rows_own() -> None:
    """Values that psycopg itself refuses are bad data; a lost connection has no SQLSTATE either."""
    assert refusal_of(DataError("no")) == Refusal("no")
    assert refusal_of(WriteBehindDamagedError("no")) == Refusal("no")
    assert refusal_of(OperationalError("the connection is lost")) is None
    assert refusal_of(error_with(None)) is None


def test_a_write_waits_for_a_lock_or_for_another_row() -> None:
    """All other refusals need a person: at once, or after the time in which a wait is likely to end."""
    assert Refusal("no", LOCKED).waits
    assert Refusal("no", "23503").waits
    assert Refusal("no", "23505").waits
    assert Refusal("no", LOCKED).patience > Refusal("no", is_of_version=True).patience
    assert Refusal("no", is_of_version=True).patience > Refusal("no", "23505").patience
    assert not Refusal("no", "23514").waits
    assert not Refusal("no").waits

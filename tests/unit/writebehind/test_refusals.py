"""Which errors of Postgres are a row's own."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, DataError, OperationalError

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.writebehind.refusals import is_refusal, sqlstate_of


class PostgresError(Exception):
    """An error of psycopg."""

    sqlstate: str | None = None


def error_with(sqlstate: str | None) -> DatabaseError:
    error = DatabaseError("no")
    error.__cause__ = PostgresError()
    error.__cause__.sqlstate = sqlstate
    return error


@pytest.mark.parametrize("sqlstate", ["22003", "23503", "42501", "44000", "45000", "54000", "P0001", "0A000"])
def test_any_other_sqlstate_may_be_a_rows_own(sqlstate: str) -> None:
    """Triggers may raise what they like."""
    assert is_refusal(error_with(sqlstate))


@pytest.mark.parametrize(
    "sqlstate", ["08006", "25006", "40001", "40P01", "53200", "55006", "55P03", "57014", "58030", "XX001"]
)
def test_errors_of_the_server_and_of_other_transactions_are_not_a_rows_own(sqlstate: str) -> None:
    """The batch is retried as it is."""
    assert not is_refusal(error_with(sqlstate))


def test_without_an_sqlstate_only_bad_data_is_a_rows_own() -> None:
    """Values that psycopg itself refuses are bad data; a lost connection has no SQLSTATE either."""
    assert is_refusal(DataError("no"))
    assert is_refusal(WriteBehindDamagedError("no"))
    assert not is_refusal(OperationalError("the connection is lost"))
    assert not is_refusal(error_with(None))
    assert sqlstate_of(error_with("22003")) == "22003"

"""What the text of an SQL statement says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cachebackend.backend.statement_texts import (
    Savepoint,
    commits,
    makes_settings,
    may_change_rows,
    releases_savepoint,
    resets_settings,
    rolls_back,
    savepoint_of,
    statement_text,
    without_begin,
)


@pytest.mark.parametrize(
    ("sql", "is_set"),
    [
        ("SET LOCAL TIME ZONE 'Asia/Tokyo'", True),
        ("SET timezone TO 'UTC'", True),
        ("SET LOCAL TIME\n  /* a comment */ ZONE 'Asia/Tokyo'", True),
        ("set session time_zone = '+00:00'", True),
        ("/* a comment */ SET LOCAL DateStyle = 'SQL'", True),
        ("SELECT set_config('TimeZone', 'Asia/Tokyo', true)", True),
        ("SET LOCAL pg_trgm.similarity_threshold = 0.9", True),
        ("SET default_text_search_config TO simple", True),
        ("SET LOCAL search_path = other, public", True),
        ("SET SCHEMA 'other'", True),
        ("SET LOCAL lock_timeout = '1s'; SET LOCAL search_path = other", True),
        ("/* a; b */ SET /* c */ LOCAL search_path = other", True),
        ("SET @@session.time_zone = '+05:00'", True),
        ("SET autocommit = 0, time_zone = '+05:00'", True),
        ("SELECT 1, set_config('search_path', 'other', true)", True),
        ("WITH a AS (SELECT set_config('search_path', 'x', true)) SELECT * FROM a", True),
        ("SELECT set_config(%s, %s, true)", True),
        ("SELECT set_config(name, 'UTC', true) FROM pg_settings WHERE name = 'TimeZone'", True),
        ("SELECT set_config('Time' || 'Zone', 'UTC', true)", True),
        ("SELECT set_config('Time'\n'Zone', 'UTC', true)", True),
        ("SELECT set_config /* why */ ('TimeZone', 'UTC', true)", True),
        ("SELECT \"set_config\"('TimeZone', 'UTC', true)", True),
        ("UPDATE pg_settings SET setting = 'UTC' WHERE name = 'TimeZone'", True),
        ("SELECT setting FROM pg_settings WHERE name = 'TimeZone'", False),
        ("SELECT set_config('app.tenant', %s, true)", False),
        ("SELECT set_config('app.tenant', '1', true)", False),
        ("SET LOCAL ROLE tenant", False),
        ("SET LOCAL app.schema = 'names'", False),
        ("SET LOCAL lock_timeout = '1s'", False),
        ("UPDATE t SET time_zone = 1", False),
        ("SET LOCAL U&\"TimeZone\" = 'Asia/Tokyo'", True),
        ("SET LOCAL hnsw.ef_search = 10", True),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", False),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", False),
        ("SET CONSTRAINTS ALL IMMEDIATE", False),
        ("SET statement_timeout TO '1s'; SET LOCAL app.tenant = '7'", False),
        ("SET autocommit = 0", False),
        ("SET LOCAL maintenance_work_mem = '1GB'; SET LOCAL max_parallel_workers_per_gather TO 0", False),
        ("SET LOCAL row_security = off", True),
        ("SET a_setting_of_the_future = 1", True),
        ("RESET TIME ZONE", True),
        ("RESET ALL", True),
        ("RESET ROLE", False),
        ("RESET SESSION AUTHORIZATION; RESET statement_timeout; RESET app.tenant", False),
        ("DO $$ BEGIN SET LOCAL TIME ZONE 'UTC'; END $$", True),
        ("DO $$ BEGIN PERFORM 1; END $$", False),
        ("/*!40101 SET NAMES latin1 */", True),
        ("SET autocommit = 1 /* ; */ , sql_mode = 'ANSI'", True),
        ("SET log_output = ';', sql_mode = 'ANSI'", True),
        ('SET log_output = ";", sql_mode = "ANSI"', True),
        ("SET LOCAL app.tenants = '1,2; 3' /* route='a',db='b' */", False),
        ("SET LOCAL pg_bigm.similarity_limit = 0.5", True),
        ("SET LOCAL vchordrq.probes = '10'", True),
        ("SET LOCAL lantern_hnsw.ef_search = 10; SET LOCAL app.tenant = '7'", True),
        ("# a comment of MySQL; really\nSET time_zone = '+05:00'", True),
    ],
)
def test_a_setting_counts_unless_it_is_known_to_be_harmless(sql: str, is_set: bool) -> None:
    """Rows and results may depend on it."""
    assert makes_settings(sql) is is_set


@pytest.mark.parametrize(
    ("sql", "may_change"),
    [
        ("SELECT * FROM t", False),
        ("/* why */ (SELECT a FROM t)", False),
        ("SHOW search_path", False),
        ("SELECT f()", True),
        ("SELECT * FROM t; DELETE FROM t", True),
        ("SET CONSTRAINTS ALL IMMEDIATE", True),
        ("UPDATE t SET a = 1", True),
        ("", True),
    ],
)
def test_a_statement_may_change_rows_unless_it_is_known_to_change_none(sql: str, may_change: bool) -> None:
    """A function may write, and so may a second statement and deferred triggers."""
    assert may_change_rows(sql) is may_change


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ('SAVEPOINT "S1"', Savepoint("SAVEPOINT", "s1")),
        ("release savepoint s1;", Savepoint("RELEASE", "s1")),
        ("ROLLBACK WORK TO SAVEPOINT `s1`", Savepoint("ROLLBACK", "s1")),
        ("ROLLBACK", None),
        ("SAVEPOINT s1; DELETE FROM t", None),
        ("SAVEPOINT " + "s" * 64, None),
    ],
)
def test_a_statement_of_a_savepoint_names_it(sql: str, found: Savepoint | None) -> None:
    """If it is nothing else, and no database shortens the name."""
    assert savepoint_of(sql) == found


def test_ends_of_transactions_are_found_in_a_text_of_several_statements() -> None:
    """After comments, too. A word in another place is none."""
    assert commits("/* x */ COMMIT")
    assert commits("SELECT 1; end")
    assert not commits("SELECT * FROM t WHERE a = 'COMMIT'")
    assert releases_savepoint("SELECT 1; RELEASE s1")
    assert rolls_back("rollback to s1")
    assert rolls_back("/* a\ncomment */ ROLLBACK TO s1")
    assert not rolls_back("SELECT 1; ROLLBACK")
    assert resets_settings("SELECT 1; RESET ALL")
    assert not resets_settings("RESET TimeZone")


@pytest.mark.parametrize(
    ("sql", "rest"),
    [
        ("BEGIN", ""),
        ("/* a; b */ start transaction READ ONLY; SELECT 1; COMMIT", " SELECT 1; COMMIT"),
        ("SELECT 1; BEGIN", "SELECT 1; BEGIN"),
        ("UPDATE t SET a = 'BEGIN'", "UPDATE t SET a = 'BEGIN'"),
    ],
)
def test_the_statement_that_begins_a_transaction_is_removed_from_a_text(sql: str, rest: str) -> None:
    assert without_begin(sql) == rest


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT 1", "SELECT 1"),
        (b"SELECT \xff", "SELECT \ufffd"),
        (SimpleNamespace(as_string=lambda driver: f"SELECT {driver}"), "SELECT 1"),
        (object(), ""),
    ],
    ids=["text", "bytes", "composed", "unknown"],
)
def test_a_statement_has_a_text_in_whichever_form_it_is_given(sql: Any, text: str) -> None:
    """Of a composed one the driver knows it."""
    assert statement_text(sql, cast("Any", SimpleNamespace(connection=1))) == text

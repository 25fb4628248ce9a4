"""Triggers: they record changes that Django does not see, and the relay deletes the keys."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections, models, transaction
from django.test.utils import CaptureQueriesContext, isolate_apps
from psycopg import sql

from cachebackend import CachedManager, RingCache, checks, invalidation
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.invalidation import pending_deletes, relay_listener, trigger_rows, triggers, watched
from cachebackend.models import OutboxRow
from cacheproject.processes import MANAGE
from tests.shop.models import Author, Poem, Sonnet
from tests.zoo.models import Arrival, Bill, Desk, Label, Moment

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
AUTHOR, POEM = Author._meta.db_table, Poem._meta.db_table


@pytest.fixture
def author() -> Author:
    """A row that is cached by its primary key and by a lookup."""
    author = Author.objects.create(name="Sappho")
    invalidation.relay()
    Author.cached.get(pk=author.pk)
    Author.cached.get(name="Sappho")
    return author


def outbox_rows() -> list[tuple[str, list[dict[str, str]]]]:
    return [(row.label, row.rows) for row in OutboxRow.objects.order_by("pk")]


def test_raw_sql_from_another_program_is_invalidated(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """The row, its old lookup value, and the cached absence of its new lookup value."""
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Psappho")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert Author.cached.get(name="Sappho").pk == author.pk
    relayed = invalidation.relay()  # at once: only the relay handles it
    assert (relayed.rows, relayed.pending) == (1, 0)
    assert Author.cached.get(name="Psappho").pk == author.pk
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Sappho")


def test_a_statement_of_many_rows_writes_one_outbox_row(program: psycopg.Connection[Any]) -> None:
    """A very large statement writes a few rows of limited size; a statement without changes writes none."""
    insert = (
        f"INSERT INTO {AUTHOR} (name, code) SELECT 'n' || n, gen_random_uuid() FROM generate_series(1, %s) n"
    )
    program.execute(insert, [triggers.ROWS_PER_OUTBOX_ROW])
    program.execute(f"UPDATE {AUTHOR} SET name = name || 'x' WHERE name = 'nobody'")
    [(label, rows)] = outbox_rows()
    assert label == "shop.author"
    assert len(rows) == triggers.ROWS_PER_OUTBOX_ROW
    assert rows[0].keys() == {"id", "name", "code"}
    program.execute(f"DELETE FROM {AUTHOR}")
    program.execute(insert, [triggers.ROWS_PER_OUTBOX_ROW + 1])
    assert [len(rows) for _, rows in outbox_rows()[2:]] in ([1000, 1], [1, 1000])


def test_truncate_invalidates_the_rows_it_removes(author: Author, program: psycopg.Connection[Any]) -> None:
    """And the rows of the tables to which it cascades."""
    poem = Poem.objects.create(author=author, title="Ode")
    invalidation.relay()
    Poem.cached.get(pk=poem.pk)
    program.execute(f"TRUNCATE {AUTHOR} CASCADE")
    assert invalidation.relay().rows == 2
    for manager, pk in ((Author.cached, author.pk), (Poem.cached, poem.pk)):
        with pytest.raises(manager.model.DoesNotExist):
            manager.get(pk=pk)


def test_truncate_invalidates_rows_that_its_snapshot_does_not_have(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Of a transaction that is not READ COMMITTED: then everything of the model is invalidated."""
    with program.transaction():
        program.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        program.execute("SELECT 1")
        late = Author.objects.create(name="Corinna")
        invalidation.relay()
        Author.cached.get(pk=late.pk)
        program.execute(f"TRUNCATE {AUTHOR} CASCADE")
    assert invalidation.relay().pending == 0
    for pk in (author.pk, late.pk):
        with pytest.raises(Author.DoesNotExist):
            Author.cached.get(pk=pk)


def test_truncate_invalidates_rows_that_a_policy_hides(author: Author) -> None:
    """Row-level security holds for the query of a trigger, and not for TRUNCATE."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE tenant")
            cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO tenant")
            cursor.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO tenant")
            cursor.execute(f"ALTER TABLE {AUTHOR} ENABLE ROW LEVEL SECURITY")
            cursor.execute("SET LOCAL ROLE tenant")
            cursor.execute(f"TRUNCATE {AUTHOR} CASCADE")
            cursor.execute("RESET ROLE")
        with pytest.raises(Author.DoesNotExist):
            Author.cached.get(pk=author.pk)
        transaction.set_rollback(True)
    assert Author.cached.get(pk=author.pk) == author


def test_copy_invalidates_the_absence_of_the_rows_that_it_inserts(program: psycopg.Connection[Any]) -> None:
    """A cached absence is loaded again."""
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Alcaeus")
    with program.cursor() as cursor, cursor.copy(f"COPY {AUTHOR} (name, code) FROM STDIN") as copy:
        copy.write_row(("Alcaeus", "9d1a44ba-5a5c-4a3c-8f43-8c3a0ed3a7a1"))
    invalidation.relay()
    assert Author.cached.get(name="Alcaeus").name == "Alcaeus"


def test_a_cascade_in_the_database_is_invalidated(author: Author, program: psycopg.Connection[Any]) -> None:
    """Django's foreign keys do not cascade in the database; those of other programs may."""
    poem = Poem.objects.create(author=author, title="Ode")
    invalidation.relay()
    Poem.cached.get(pk=poem.pk)
    with connection.cursor() as cursor:
        cursor.execute(
            f"ALTER TABLE {POEM} ADD CONSTRAINT cascading FOREIGN KEY (author_id) "
            f"REFERENCES {AUTHOR} (id) ON DELETE CASCADE"
        )
    try:
        program.execute(f"DELETE FROM {AUTHOR} WHERE id = %s", [author.pk])
        assert {label for label, _ in outbox_rows()} == {"shop.author", "shop.poem"}
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {POEM} DROP CONSTRAINT cascading")
    invalidation.relay()
    with pytest.raises(Poem.DoesNotExist):
        Poem.cached.get(pk=poem.pk)


def test_a_change_in_a_parents_table_invalidates_its_children(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Multi-table inheritance."""
    sonnet = Sonnet.objects.create(author=author, title="18")
    invalidation.relay()
    assert Sonnet.cached.get(pk=sonnet.pk).title == "18"
    program.execute(f"UPDATE {POEM} SET title = '130' WHERE id = %s", [sonnet.pk])
    invalidation.relay()
    assert Sonnet.cached.get(pk=sonnet.pk).title == "130"


def test_another_search_path_does_not_lose_a_change(author: Author, program: psycopg.Connection[Any]) -> None:
    """The trigger finds the outbox in the schema of the changed table."""
    program.execute("SET search_path TO pg_catalog")
    program.execute(f"UPDATE public.{AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert invalidation.relay().rows == 1


@pytest.mark.own_connections
def test_a_prepared_transaction_is_relayed_after_its_commit(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Its outbox row is committed with it. Postgres prepares none whose triggers have notified the relay."""
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"), program.transaction():
        program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
        program.execute("PREPARE TRANSACTION 'refused'")
    program.execute("SET ringcache.notify = 'off'")
    program.execute("BEGIN")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
    program.execute("PREPARE TRANSACTION 'two_phases'")
    try:
        assert invalidation.relay().rows == 0
        assert Author.cached.get(pk=author.pk).name == "Sappho"
    finally:
        program.execute("COMMIT PREPARED 'two_phases'")
    assert invalidation.relay().rows == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"


def test_a_rolled_back_statement_leaves_no_outbox_row(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """The outbox row belongs to the transaction."""
    with pytest.raises(ZeroDivisionError), program.transaction():
        program.execute(f"DELETE FROM {AUTHOR}")
        raise ZeroDivisionError
    assert outbox_rows() == []


def test_a_django_transaction_leaves_no_row_of_a_trigger(author: Author) -> None:
    """Its own outbox row takes in the rows of its triggers, and is deleted after the nodes confirm."""
    with transaction.atomic():
        author.name = "Psappho"
        author.save()
        with transaction.atomic():
            Poem.objects.create(author=author, title="Ode")
        assert OutboxRow.objects.count() == 2
    assert OutboxRow.objects.count() == 0
    assert Author.cached.get(pk=author.pk).name == "Psappho"


@pytest.fixture
def scribe() -> Iterator[None]:
    """A role that may read authors, and may write to a table that nobody caches."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE ROLE scribe; CREATE TABLE log (id serial, line text); "
            f"GRANT SELECT ON {AUTHOR} TO scribe; GRANT ALL ON log, log_id_seq TO scribe"
        )
        yield
        cursor.execute("DROP TABLE log; DROP OWNED BY scribe; DROP ROLE scribe")


@pytest.mark.usefixtures("scribe")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO log (line) VALUES ('x')",
        "SELECT line FROM log FOR UPDATE",
        "SELECT nextval('log_id_seq')",
        "CREATE TEMPORARY TABLE page (line text) ON COMMIT DROP",
        "CREATE TEMPORARY TABLE page (line text) ON COMMIT DROP; SET TRANSACTION READ ONLY",
        "SET LOCAL search_path = pg_temp; CREATE TEMPORARY TABLE page (line text) ON COMMIT DROP",
    ],
)
def test_a_transaction_in_which_no_trigger_wrote_does_not_look_into_the_outbox(
    author: Author, statement: str
) -> None:
    """It has a transaction id, but needs no rights on the outbox. It may store what it reads."""
    Author.cached.cache.clear()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE scribe")
        cursor.execute(statement)
        if "search_path" not in statement:
            assert Author.cached.get(pk=author.pk) == author
    if "search_path" not in statement:
        with CaptureQueriesContext(connection) as captured:
            assert Author.cached.get(pk=author.pk) == author
        assert len(captured) == 0


@pytest.mark.parametrize("undone", [False, True])
def test_a_setting_of_the_transaction_says_whether_triggers_wrote(author: Author, undone: bool) -> None:
    """It is reverted with their rows, and taken back with a rollback of the savepoint that took them."""
    assert not trigger_rows.may_have_trigger_rows("default")
    with transaction.atomic():
        outer = connection.savepoint()
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        assert trigger_rows.may_have_trigger_rows("default")
        inner = connection.savepoint()
        assert list(trigger_rows.take_trigger_rows("default"))
        assert not trigger_rows.may_have_trigger_rows("default")
        transaction.savepoint_rollback(inner)
        assert trigger_rows.may_have_trigger_rows("default")
        if undone:
            transaction.savepoint_rollback(outer)
            assert not trigger_rows.may_have_trigger_rows("default")
    assert not trigger_rows.may_have_trigger_rows("default")
    assert Author.cached.get(pk=author.pk).name == ("Sappho" if undone else "Psappho")
    assert OutboxRow.objects.count() == 0


@pytest.mark.parametrize("reset", ["RESET ALL", sql.SQL("RESET ALL"), "SELECT 1; reset  all"])
@pytest.mark.parametrize("is_committed", [False, True])
def test_a_transaction_that_resets_its_settings_looks_into_the_outbox(
    author: Author, reset: Any, *, is_committed: bool
) -> None:
    """The setting in which its triggers said that they wrote is lost."""
    with suppress(ZeroDivisionError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        cursor.execute(reset)
        Author.cached.cache.clear()
        assert Author.cached.get(pk=author.pk).name == "Psappho"
        if not is_committed:
            raise ZeroDivisionError
    assert Author.cached.get(pk=author.pk).name == ("Psappho" if is_committed else "Sappho")
    assert OutboxRow.objects.count() == 0


def test_serializable_transactions_that_share_no_row_do_not_conflict() -> None:
    """A scan of the outbox would be a read of every outbox row that others write."""

    def insert_label() -> None:
        with transaction.atomic():
            cursor = connection.cursor()
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            Label.objects.create(name="other")
        connection.close()

    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {OutboxRow._meta.db_table}")
        with transaction.atomic():
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            Desk.objects.create(name="one")
            thread = threading.Thread(target=insert_label)
            thread.start()
            thread.join()
    assert (Desk.objects.count(), Label.objects.count()) == (1, 1)


def test_the_rows_of_triggers_of_an_earlier_release_are_left_to_the_relay(author: Author) -> None:
    """Such a trigger does not say in the session that it wrote."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        cursor.execute("SET LOCAL ringcache.wrote = ''")
    assert Author.cached.get(pk=author.pk).name == "Sappho"
    assert invalidation.relay().rows == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"


def test_a_save_in_autocommit_deletes_the_row_of_its_trigger(author: Author) -> None:
    """Also for a row that is spread over several tables; nothing remains for the relay."""
    author.name = "Psappho"
    author.save()
    sonnet = Sonnet.objects.create(author=author, title="18")
    assert OutboxRow.objects.count() == 0
    assert Author.cached.get(name="Psappho").pk == author.pk
    sonnet.delete()
    author.delete()
    assert OutboxRow.objects.count() == 0


def test_raw_sql_in_autocommit_is_invalidated_at_once(author: Author) -> None:
    """It runs in a transaction of its own, so the relay is not needed for it."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s RETURNING name", [author.pk])
        assert cursor.fetchall() == [("Psappho",)]
        assert cursor.rowcount == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.count() == 0
    with connection.cursor() as cursor:
        cursor.executemany(f"UPDATE {AUTHOR} SET name = %s WHERE id = %s", [("Sappho", author.pk)])
    assert Author.cached.get(pk=author.pk).name == "Sappho"


@pytest.mark.parametrize(
    "statement",
    [
        f"/* page */ UPDATE {AUTHOR} SET name = 'Psappho'",
        f"UPDATE {AUTHOR.upper()} SET name = 'Psappho'",
        f"SET lock_timeout = 0; UPDATE {AUTHOR} SET name = 'Psappho'",
        f"UPDATE {AUTHOR} SET name = 'Psappho'".encode(),
        sql.SQL("UPDATE {} SET name = 'Psappho'").format(sql.Identifier(AUTHOR)),
    ],
    ids=["comment", "upper case", "after SET", "bytes", "composed"],
)
def test_forms_of_raw_sql_in_autocommit(author: Author, statement: Any) -> None:
    """The relay is not needed for any of them."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.count() == 0


@pytest.mark.parametrize(
    "statement",
    [
        f"DO $$ BEGIN UPDATE {AUTHOR} SET name = 'Psappho'; COMMIT; END $$",
        f"WITH one AS (SELECT 1) SELECT name FROM {AUTHOR}",
        f"VACUUM {AUTHOR}",
    ],
)
def test_statements_that_must_not_be_in_a_transaction(author: Author, statement: str) -> None:
    """They run as they are; what they change waits for the relay."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
    invalidation.relay()
    assert Author.cached.get(pk=author.pk).name == Author.objects.get(pk=author.pk).name


@pytest.mark.parametrize("alone", [False, True])
def test_raw_sql_in_a_django_transaction_is_invalidated_at_its_commit(author: Author, alone: bool) -> None:
    """The relay is not needed for it, and no other write."""
    with transaction.atomic():
        if not alone:
            Poem.objects.create(author=author, title="Ode")
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.count() == 0


@pytest.mark.parametrize("atomic", [False, True])
def test_raw_sql_quarantines_strict_keys(
    author: Author, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """Before the commit, as other writes do."""
    monkeypatch.setattr(Author.cached, "is_strict", True)
    [key, *_] = Author.cached.keys_of([{"pk": author.pk}], "default")
    client = Author.cached.cache.client
    records: list[Any] = []
    commit = connection._commit

    def look_and_commit() -> None:
        records.append(client.nodes[client.ring.owner(key)].call((b"GET", key)))
        commit()

    monkeypatch.setattr(connection, "_commit", look_and_commit)
    with transaction.atomic() if atomic else nullcontext(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert records[0][:1] == b"Q"


def test_the_listening_relay_runs_when_it_is_notified(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Long before its interval ends."""
    rounds: list[invalidation.RelayResult] = []
    listens = threading.Event()

    def on_round(relayed: invalidation.RelayResult) -> bool:
        rounds.append(relayed)
        listens.set()
        return relayed.rows == 0

    def run() -> None:
        try:
            relay_listener.relay_on_notify("default", on_round, interval=600, pause=lambda _: None)
        finally:
            connections.close_all()  # the relay reads the outbox of each database

    relay = threading.Thread(target=run)
    relay.start()
    assert listens.wait(30)
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    relay.join(30)
    assert not relay.is_alive()
    assert rounds[-1].rows == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"


def test_the_listening_relay_connects_again(monkeypatch: pytest.MonkeyPatch, author: Author) -> None:
    """After the database has closed its connection, the relay opens a new one."""
    paused: list[float] = []
    rounds: list[object] = []

    def on_round(_: invalidation.RelayResult) -> bool:
        rounds.append(None)
        if len(rounds) == 1:
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query = 'LISTEN ringcache_outbox' AND pid <> pg_backend_pid()"
                )
        return len(rounds) < 2

    relay_listener.relay_on_notify("default", on_round, interval=0.5, pause=paused.append)
    assert paused == [0.5]


def test_the_listening_relay_runs_while_its_database_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For the other databases, and so that it can end. It warns once a minute."""

    def refuse(*_: object) -> bool:
        message = "connection refused"
        raise OperationalError(message)

    monkeypatch.setattr(relay_listener, "receives_notifications", refuse)
    monkeypatch.setattr(relay_listener, "_lost_log", LogRateLimit(SYSTEM_CLOCK))
    rounds = iter([True, True, False])
    paused: list[float] = []
    relay_listener.relay_on_notify("default", lambda _: next(rounds), interval=0.5, pause=paused.append)
    assert paused == [0.5, 0.5, 0.5]
    assert [each.getMessage() for each in caplog.records] == [
        "the relay lost its connection to database 'default': connection refused"
    ]


@pytest.mark.usefixtures("prefix_of_tests")
def test_the_command_listens_until_sigterm(author: Author, program: psycopg.Connection[Any]) -> None:
    """It runs in a separate process, and prints its result at SIGTERM."""
    settings = connection.settings_dict
    login = f"{settings['USER']}:{settings['PASSWORD']}"
    url = f"postgres://{login}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"
    command = [sys.executable, str(MANAGE), "invalidation", "relay", "--listen", "--json"]
    with subprocess.Popen(
        command,
        env=os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as relay:
        assert relay.stderr is not None
        assert any("listening" in line for line in relay.stderr)  # after the output of the system checks
        program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        end = time.monotonic() + 30
        while OutboxRow.objects.exists() and time.monotonic() < end:
            pass
        relay.terminate()
        output, _ = relay.communicate(timeout=30)
    assert relay.returncode == 0
    assert json.loads(output.splitlines()[-1])["rows"] == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"


def test_a_database_without_notifications_is_relayed_every_interval() -> None:
    """The same function runs the relay for a database that is not Postgres."""
    rounds: list[invalidation.RelayResult] = []
    paused: list[float] = []

    def on_round(relayed: invalidation.RelayResult) -> bool:
        rounds.append(relayed)
        return len(rounds) < 3

    relay_listener.relay_on_notify("lite", on_round, interval=1.0, pause=paused.append)
    assert paused == [1.0, 1.0]
    with pytest.raises(CommandError, match="--database 'nope' is none of DATABASES: default, lite"):
        call_command("invalidation", "relay", "--listen", "--database", "nope")


def made_by(command: str, *words: str, **options: Any) -> str:
    """Return the output of a command for the shop, whose migrations create the triggers of these tests."""
    output = io.StringIO()
    call_command(command, "shop", *words, stdout=output, **options)
    return output.getvalue()


def makemigrations() -> str:
    return made_by("makemigrations", dry_run=True, verbosity=3)


def test_the_migrations_name_every_lookup() -> None:
    """Although pgtrigger compiles a trigger for a model of a migration's state, which has no lookups."""
    sql = made_by("sqlmigrate", "0001")
    for table in ("author", "poem", "sonnet"):
        for statement in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert f'{statement} ON "shop_{table}"' in sql
    assert sql.count("""to_jsonb(n."name") #>> '{}'""") == 4
    assert sql.count("""to_jsonb(o."name") #>> '{}'""") == 1  # UPDATE has two transition tables
    assert 'ON "shop_tag"\n' not in sql


def test_the_migrations_have_the_triggers_of_the_models() -> None:
    """A second ``makemigrations`` finds no changes."""
    assert "No changes" in makemigrations()


def test_triggers_of_an_earlier_release_need_a_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their SQL differs, so that ``makemigrations`` replaces them."""
    monkeypatch.setattr(triggers, "CHANNEL", "another_channel")
    made = makemigrations()
    assert "Remove trigger ringcache_insert from model author" in made
    assert "Create trigger ringcache_insert on model author" in made


def test_without_a_ring_the_same_triggers_are_made(settings: Any) -> None:
    """Migrations are often made on a machine that has no nodes."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert "No changes" in makemigrations()


def test_the_sql_of_the_triggers_has_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed text, even of a comment or a warning, makes a migration in every project with triggers.

    If that is intended, change the hashes here and say so in the changelog.
    """
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    monkeypatch.setattr(trigger_rows, "_triggered", set(trigger_rows._triggered))
    with isolate_apps("tests.shop"):

        class Verse(models.Model):
            name = models.CharField(max_length=9, unique=True)
            cached = CachedManager(lookups=["name"], triggers=True)

            class Meta:
                app_label = "shop"

    hashes = {trigger.name: trigger.compile(Verse).hash for trigger in Verse._meta.triggers}
    assert hashes == {
        "ringcache_insert": "fe066ece9f4f56903a9f387f21d0b06c71f9f8fa",
        "ringcache_update": "51e96fde27e54ab81782b0c6e8bbe89dfed2032d",
        "ringcache_delete": "c4aadea7e193fc983233568f94dae7de1b2b8c6b",
        "ringcache_truncate": "d1a3689b2ba4d32c6e3376740759b2566c6618ce",
    }


def test_the_change_of_a_removed_model_is_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    """Its trigger may still exist, or a newer release has the model."""
    OutboxRow.objects.create(label="shop.gone", rows=[{"id": "1"}])
    assert invalidation.relay().rows == 0
    assert "the project has no model of this name" in caplog.text
    assert OutboxRow.objects.get().rows is None


def test_without_pgtrigger_the_manager_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the model class is created, and not when a change is missed."""
    monkeypatch.delitem(sys.modules, "cachebackend.invalidation.triggers")
    monkeypatch.delattr("cachebackend.invalidation.triggers")
    monkeypatch.setitem(sys.modules, "pgtrigger", None)
    with (
        isolate_apps("tests.shop"),
        pytest.raises(ImproperlyConfigured, match=r"django-ringcache\[triggers\]"),
    ):

        class Ballad(models.Model):
            cached = CachedManager["Ballad"](triggers=True)

            class Meta:
                app_label = "shop"


def test_checks_report_where_triggers_are_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the app pgtrigger, on tables that are not managed, and on databases other than Postgres."""
    assert checks.check_triggers_app() == checks.check_trigger_databases() == []
    monkeypatch.setattr(checks.caching.apps, "is_installed", lambda name: name != "pgtrigger")
    assert {(message.id, message.obj) for message in checks.check_triggers_app()} >= {
        ("ringcache.E003", Author),
        ("ringcache.E003", Poem),
    }
    monkeypatch.undo()
    monkeypatch.setattr(Poem._meta, "managed", False)
    [unmanaged] = checks.check_triggers_app()
    assert (unmanaged.id, unmanaged.obj) == ("ringcache.E003", Poem)
    assert "not managed by Django" in unmanaged.msg
    monkeypatch.setattr(checks.caching.router, "db_for_write", lambda _: "lite")
    messages = checks.check_trigger_databases()
    assert {message.id for message in messages} == {"ringcache.E004"}
    assert "SQLite" in messages[0].msg


def test_values_of_triggers_make_the_keys_that_django_makes(author: Author, ring_cache: RingCache) -> None:
    """One function makes the keys, from equal values."""
    keys = trigger_rows.keys_of_trigger_row(
        "shop.author", [{"id": str(author.pk), "name": "Sappho", "code": str(author.code).upper()}], "default"
    )
    row = {"id": author.pk, "pk": author.pk, "name": "Sappho", "code": author.code}
    assert set(Author.cached.keys_of([row], "default")) <= keys["default"]


UNREADABLE = [
    ("at", "'infinity'"),
    ("at", "'-infinity'"),
    ("at", "'0044-03-15 BC'"),
    ("at", "'20000-01-01'"),
    ("day", "'infinity'"),
    ("amount", "'NaN'"),
    ("length", "'1 month'"),
    ("hash", r"'\xdeadbeef'"),
]


@pytest.mark.parametrize(("column", "value"), UNREADABLE)
def test_a_value_that_python_cannot_read_does_not_stop_the_relay(
    author: Author, program: psycopg.Connection[Any], column: str, value: str
) -> None:
    """Nothing is cached under it; the row's other keys, and other rows, are deleted."""
    moment = Moment.objects.create(name="now")
    assert Moment.cached.get(pk=moment.pk).rank == 0
    with pytest.raises(Moment.DoesNotExist):
        Moment.cached.get(name="then")
    program.execute(f"UPDATE zoo_moment SET name = 'then', rank = 1, {column} = {value}")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
    result = invalidation.relay()
    assert (result.rows, result.pending) == (2, 0)
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    program.execute(f"UPDATE zoo_moment SET {column} = NULL")  # Django cannot read such rows either
    invalidation.relay()
    assert Moment.cached.get(name="then").rank == 1
    assert Moment.cached.get(pk=moment.pk).rank == 1


@pytest.mark.parametrize(("column", "value"), UNREADABLE)
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_value_that_python_cannot_read_does_not_lose_a_write(
    column: str, value: str, *, in_transaction: bool
) -> None:
    """Nor what else the transaction writes, in autocommit or in ``atomic``."""
    with transaction.atomic() if in_transaction else nullcontext(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO zoo_moment (name, rank, {column}) VALUES ('now', 0, {value})")
        Author.objects.create(name="Psappho")
    assert Moment.objects.filter(name="now").exists()
    assert Author.objects.filter(name="Psappho").exists()


def test_a_time_without_time_zones_makes_the_keys_of_its_row(
    program: psycopg.Connection[Any], settings: Any
) -> None:
    """Without ``USE_TZ``, Django reads naive times in its own time zone; a trigger writes an offset."""
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kathmandu"
    at = datetime(2026, 6, 1, 12)  # as Django reads it
    Arrival.objects.create(at=at, name="early")
    Moment.objects.create(at=at, name="now")
    invalidation.relay()
    assert [Arrival.cached.get(pk=at).rank, Moment.cached.get(at=at).rank] == [0, 0]
    program.execute("SET TimeZone = 'Europe/Amsterdam'")
    program.execute("UPDATE zoo_arrival SET rank = 1")
    program.execute("UPDATE zoo_moment SET rank = 1")
    invalidation.relay()
    assert [Arrival.cached.get(pk=at).rank, Moment.cached.get(at=at).rank] == [1, 1]


@pytest.mark.parametrize(
    ("at", "zone"),
    [
        (datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), "Europe/Amsterdam"),
        (datetime(1, 1, 1, tzinfo=UTC), "America/New_York"),
    ],
)
def test_a_time_that_a_zone_moves_out_of_the_calendar_makes_the_keys_of_its_row(
    program: psycopg.Connection[Any], at: datetime, zone: str
) -> None:
    """In the session of a writer it has the year 10000, or one before Christ. Readers ask for it in UTC."""
    for lookup in ({"at": at}, {"name": "now"}):
        with pytest.raises(Moment.DoesNotExist):
            Moment.cached.get(**lookup)
    with pytest.raises(Arrival.DoesNotExist):
        Arrival.cached.get(pk=at)
    assert list(Moment.cached.filter(at=at)) == []
    program.execute(f"SET TimeZone = '{zone}'")
    program.execute("INSERT INTO zoo_moment (name, rank, at) VALUES ('now', 1, %s)", [at.isoformat()])
    program.execute("INSERT INTO zoo_arrival (at, name, rank) VALUES (%s, 'late', 1)", [at.isoformat()])
    invalidation.relay()
    assert [Moment.cached.get(at=at).rank, Moment.cached.get(name="now").rank] == [1, 1]
    assert [Arrival.cached.get(pk=at).rank, *(row.rank for row in Moment.cached.filter(at=at))] == [1, 1]
    program.execute("UPDATE zoo_moment SET rank = 2")
    program.execute("UPDATE zoo_arrival SET rank = 2")
    invalidation.relay()
    assert [Moment.cached.get(at=at).rank, Arrival.cached.get(pk=at).rank] == [2, 2]


@pytest.mark.parametrize("output", ["hex", "escape"])
def test_bytes_that_a_trigger_wrote_make_the_key_of_a_lookup(
    program: psycopg.Connection[Any], output: str
) -> None:
    """In both forms in which Postgres writes them."""
    value = bytes(range(256))
    with pytest.raises(Moment.DoesNotExist):
        Moment.cached.get(hash=value)
    program.execute(f"SET bytea_output = {output}")
    program.execute("INSERT INTO zoo_moment (name, rank, hash) VALUES ('now', 0, %s)", [value])
    invalidation.relay()
    assert Moment.cached.get(hash=value).name == "now"


def test_a_custom_primary_key_is_asked_of_the_database(program: psycopg.Connection[Any]) -> None:
    """Python cannot know which of its values the database holds equal."""
    Bill.objects.create(number=5, name="five")
    assert Bill.cached.get(number=5).rank == 0
    program.execute("UPDATE zoo_bill SET rank = 1")
    for bill in (Bill.cached.get(pk=5), Bill.cached.get(name="five"), Bill.cached.in_bulk([5])[5]):
        assert bill.rank == 1
    assert invalidation.relay().rows == 1


def test_trigger_values_are_converted_as_rows_that_django_reads() -> None:
    """By ``from_db_value``; a text that it refuses is None, in a column that is not the primary key."""
    model, rows, _ = trigger_rows._changed_rows("zoo.bill", [{"number": "1005"}], "default")
    assert (model, [row["pk"] for row in rows]) == (Bill, [5])
    with pytest.raises(ValueError, match="the primary key 'number' is 'x', which cannot be read"):
        trigger_rows._changed_rows("zoo.bill", [{"number": "x"}], "default")
    everything = {"id": "1", "flag": "true", "length": "1 mon"}
    _, rows, _ = trigger_rows._changed_rows("shop.everything", [everything], "default")
    assert (rows[0]["flag"], rows[0]["length"]) == (True, None)


def test_an_outbox_row_that_cannot_be_processed_does_not_delay_the_others(
    author: Author,
    program: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is set aside, whether Python or a query failed, and what is cached of its model is deleted."""
    program.execute(f"UPDATE {POEM} SET title = 'x'")
    Poem.objects.create(author=author, title="Ode")
    program.execute(f"UPDATE {POEM} SET title = 'x'")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
    changed_rows = pending_deletes.changed_rows

    def failing(model: type[models.Model], *args: Any) -> Any:
        if model is Poem:
            Author.objects.raw("SELECT no_such_column FROM shop_author")[0]
        return changed_rows(model, *args)

    monkeypatch.setattr(pending_deletes, "changed_rows", failing)
    result = invalidation.relay()
    assert (result.rows, result.pending) == (1, 0)
    assert "cannot be read and is set aside" in caplog.text
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert [row.error[:16] for row in OutboxRow.objects.all()] == ["ProgrammingError"]

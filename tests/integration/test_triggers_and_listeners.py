"""The listening relay: it runs when a trigger notifies it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections

from cachebackend import invalidation
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.invalidation import relay_listener
from cachebackend.models import OutboxRow
from cacheproject.processes import MANAGE
from tests.integration.triggered import AUTHOR, author
from tests.shop.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


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

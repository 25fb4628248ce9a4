"""The timeline: what happened to nodes and processes, and what people did."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import reverse

from cachebackend import RingCache, tasks
from cachebackend.admin.actions import ActionForm
from cachebackend.clock import SYSTEM_CLOCK, RateLimit
from cachebackend.errors import NodeUnavailableError
from cachebackend.management.report import ReportCommand
from cachebackend.models import Event, ParkedWrite
from cachebackend.monitoring import events, observer
from cachebackend.monitoring.events import State, record_event, record_states, timeline
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.processes import report_this_process
from cacheproject.cluster import Cluster
from cacheproject.services import Services
from tests.fix_services import close_breakers
from tests.integration.write_behind import command
from tests.waits import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
UP, AWAY = (State("node", "node a", value, f"a is {value}") for value in ("used", "away"))


def texts() -> list[str]:
    return [event.text for event in reversed(timeline(50))]


def look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report this process, and let the relay look at once."""
    monkeypatch.setattr(observer, "_looks", RateLimit(SYSTEM_CLOCK, observer.INTERVAL))
    report_this_process()
    tasks.relay()


def test_a_change_is_stored_once() -> None:
    """The first known state is not shown; a state that stays is not stored again."""
    for state in (UP, UP, AWAY, AWAY, UP):
        record_states([state])
    assert texts() == ["a is away", "a is used"]
    assert Event.objects.count() == 3


def test_a_change_that_two_processes_see_is_stored_once() -> None:
    """Both read the same last event, so their events have the same key."""
    record_states([UP])
    one, other = events._changes("default", [AWAY]), events._changes("default", [AWAY])
    events._store("default", one)
    events._store("default", other)
    assert texts() == ["a is away"]


def test_only_the_latest_events_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table does not grow."""
    monkeypatch.setattr(events, "MAX_EVENTS", 3)
    for number in range(9):
        record_event("action", "ann", f"event {number}" + "x" * 600)
    assert [text[:7] for text in texts()] == ["event 6", "event 7", "event 8"]


def test_a_table_that_is_missing_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the migration has run, the page and the commands work, and one warning is logged."""
    str(Event.objects.all().query)  # Django keeps columns with their table once they are used
    monkeypatch.setattr(Event._meta, "db_table", "missing")
    look(monkeypatch)
    command("drain")
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    page = client.get(reverse("admin:cachebackend_ring_changelist"))
    assert page.status_code == 200
    assert page.context["timeline"] is None
    warned = [each for each in caplog.records if getattr(each, "event", "") == "events_not_stored"]
    assert len(warned) <= 1


def eject_one(cache: RingCache) -> None:
    """Read keys until the node that does not answer is ejected."""

    def is_ejected() -> bool:
        cache.get_many([f"k{number}" for number in range(60)])
        return any(node.is_ejected for node in cache.client.nodes)

    wait_until(is_ejected)


@pytest.mark.ring_of_nodes
def test_a_node_that_is_killed_and_restarted(
    ring_cache: RingCache, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay sees that no process uses it, that they do again, and that another run of it answers."""
    look(monkeypatch)
    assert texts() == []
    services.kill("ring-b")
    try:
        eject_one(ring_cache)
        look(monkeypatch)
        [text] = texts()
        assert text.startswith("Node ring-b of 'default' is down: node 'ring-b' is not reachable")
    finally:
        services.restart("ring-b")
    close_breakers(ring_cache.client.nodes)
    look(monkeypatch)
    assert sorted(texts()[1:]) == [
        "Node ring-b of 'default' is back: all processes use it.",
        "Node ring-b of 'default' was restarted.",
    ]


def test_a_planned_failover_of_a_cluster(
    cluster_services: Services, cluster: Cluster, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server was restarted, and none was away."""
    block = settings.CACHES["default"] | {"LOCATION": cluster_services.ring_urls}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        look(monkeypatch)
        assert texts() == []
        [replica] = cluster.replicas_of(cluster.primaries[0])
        cluster.failover(replica)
        look(monkeypatch)
        [text] = texts()
        assert text.startswith("The slots of 'default' are served by ")
        assert str(cluster.server(replica).port) in text
        look(monkeypatch)
        assert len(texts()) == 1


def test_a_fault_begins_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page, the status page or the metrics have seen it."""
    fault = Fault(FaultKind.NO_BEAT, "A worker runs, but beat does not.")
    for faults in ([], [fault], [fault], []):
        monkeypatch.setattr(observer, "_looks", RateLimit(SYSTEM_CLOCK, observer.INTERVAL))
        observer.observe(faults)
    assert texts() == [fault.message, "Over: no-beat."]


@pytest.mark.ring_of_nodes
def test_a_command_that_changes_something_leaves_a_trail() -> None:
    """With the user, the arguments and the outcome; one that only reads does not."""
    command("status")
    command("drain", "--timeout", "9")
    command("drain")
    call_command("ring", "cleanup", "--yes", stdout=StringIO())
    call_command("ring", "cleanup", stdout=StringIO())
    assert texts() == [
        "manage.py writebehind drain timeout=9.0: done",
        "manage.py writebehind drain: done",
        "manage.py ring cleanup yes=True: done",
    ]
    out = StringIO()
    call_command("ring", "events", "--json", stdout=out)
    [first, _, second] = json.loads(out.getvalue())["events"]
    assert (first["kind"], " on " in second["subject"]) == ("command", True)


@pytest.mark.parametrize(
    ("answer", "trail"), [("y", ["manage.py writebehind discard all=True: done"]), ("n", [])]
)
def test_what_a_person_agrees_to_leaves_a_trail(
    answer: str, trail: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that asks is recorded like one with ``--yes``; what the person refuses is not."""
    ParkedWrite.objects.create(label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no")
    monkeypatch.setattr(ReportCommand, "can_ask", True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    call_command("writebehind", "discard", "--all", stdout=StringIO())
    assert texts() == trail
    assert ParkedWrite.objects.count() == 1 - len(trail)


def test_an_action_of_the_page_leaves_a_trail(ring_cache: RingCache, settings: Any) -> None:
    """In Django's log, in the timeline, and on the page."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    ring_cache.set("k", 1)
    act = {"action": "delete_key", "alias": "default", "target": "k", "confirmed": "on"}
    client.post(reverse("admin:cachebackend_ring_act"), act)
    assert texts() == [LogEntry.objects.get().change_message] == ["delete the key 'k' of 'default': done"]
    page = client.get(reverse("admin:cachebackend_ring_changelist")).content.decode()
    assert "delete the key &#x27;k&#x27; of &#x27;default&#x27;: done" in page


def test_an_action_that_fails_leaves_a_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not answer may still carry it out when it is back."""

    def refuse(_: ActionForm) -> str:
        message = "node 'a' does not answer"
        raise NodeUnavailableError(message)

    monkeypatch.setattr(ActionForm, "act", refuse)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    act = {"action": "delete_key", "alias": "default", "target": "k", "confirmed": "on"}
    client.post(reverse("admin:cachebackend_ring_act"), act)
    done = "delete the key 'k' of 'default': failed: node 'a' does not answer"
    assert texts() == [LogEntry.objects.get().change_message] == [done]

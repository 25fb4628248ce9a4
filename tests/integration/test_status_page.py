"""The status page, which needs no session, no user and no database."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import path, reverse

from cachebackend import RingCache, status_page
from cachebackend.errors import ConfigurationError
from cachebackend.invalidation import outbox_databases
from cachebackend.monitoring import Fault, outbox_figures
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.options import ProjectOptions
from cachebackend.status_page import status
from cachebackend.telemetry.heartbeat import record_run
from cachebackend.telemetry.processes import report_this_process
from cachebackend.telemetry.publisher import publish_all
from tests.sessions import session

pytestmark = pytest.mark.usefixtures("empty_nodes")
TOKEN = "a-token-of-24-characters"
urlpatterns = [path("status/", status)]
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def _urls(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.RINGCACHE = {"status": {"token": TOKEN, "addresses": ["10.1.0.0/16", "::1"]}}


def name_of_node(cache: RingCache) -> str:
    """Return the name of a node of the ring, or of a shard of the cluster."""
    return cache.client.nodes[cache.client.indexes[0]].name


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'anyone:{password}'.encode()).decode()}"}


@pytest.mark.usefixtures("_urls")
def test_the_page_is_shown_without_a_database(ring_cache: RingCache) -> None:
    """No query is sent by the request itself, and a database that may not be asked is a fault."""
    for task in ("relay", "tick"):
        record_run(task)
    page = Client().get("/status/", headers=BEARER)
    assert page.status_code == 200
    assert name_of_node(ring_cache) in page.content.decode()
    data = Client().get("/status/?format=json", headers=BEARER).json()
    assert data["well"] is (data["faults"] == [])
    assert {fault["kind"] for fault in data["faults"]} <= {"database-down"}


@pytest.mark.usefixtures("_urls")
def test_settings_of_write_behind_with_faults_are_a_fault(
    ring_cache: RingCache, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The page shows the rest; the process reports itself and publishes its counts all the same."""
    settings.WRITE_BEHIND = {"nodes": ["redis://queue:6379/0?name=q"], "partitions": "many"}
    report_this_process()
    publish_all()
    data = Client().get("/status/?format=json", headers=BEARER).json()
    [fault] = [each for each in data["faults"] if each["kind"] == "queue-node-down"]
    assert "WRITE_BEHIND['partitions']" in fault["message"]
    assert name_of_node(ring_cache) in Client().get("/status/", headers=BEARER).content.decode()
    assert caplog.records == []


def test_a_fault_is_a_link_where_the_project_has_the_admin(settings: Any) -> None:
    """To the parked writes, or to what it concerns on the ring page; without the admin it is plain text."""
    parked = Fault(FaultKind.WRITES_PARKED, "…")
    assert status_page._href(parked) == reverse("admin:cachebackend_parkedwrite_changelist")
    page = reverse("admin:cachebackend_ring_changelist")
    assert status_page._href(Fault(FaultKind.NO_WORKER, "…")) == f"{page}#invalidation"
    assert status_page._href(Fault(FaultKind.DRAINS_FAIL, "…", subject="m:0")) == f"{page}#partition-m:0"
    settings.ROOT_URLCONF = __name__
    assert status_page._href(parked) == ""


@pytest.mark.usefixtures("_urls")
@pytest.mark.parametrize(
    ("headers", "address", "code"),
    [
        (BEARER, "192.0.2.1", 200),
        (basic(TOKEN), "192.0.2.1", 200),
        (basic("wrong"), "192.0.2.1", 401),
        ({"Authorization": "Basic !"}, "192.0.2.1", 401),
        ({"Authorization": "Bearer wrong"}, "192.0.2.1", 401),
        ({}, "192.0.2.1", 401),
        ({}, "10.1.2.3", 200),
        ({}, "::1", 200),
        ({}, "", 401),
        ({"X-Forwarded-For": "10.1.2.3"}, "10.1.2.3", 401),
    ],
)
def test_a_request_needs_the_token_or_an_internal_address(
    ring_cache: RingCache, headers: dict[str, str], address: str, code: int
) -> None:
    """Behind a proxy an address proves nothing, because it is that of the proxy."""
    found = Client().get("/status/?format=json", headers=headers, REMOTE_ADDR=address)
    assert found.status_code == code
    assert ("WWW-Authenticate" in found.headers) is (code == 401)


def test_without_the_setting_there_is_no_page(settings: Any) -> None:
    """A route alone opens nothing."""
    settings.ROOT_URLCONF = __name__
    with override_settings(RINGCACHE={}):
        assert Client().get("/status/", headers=BEARER).status_code == 404


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"token": "short"}, "must have a text of at least 16 characters as its token"),
        ({"addresses": ["x"]}, 'must have addresses or networks such as "10.0.0.0/8"'),
        ({"addresses": ["0.0.0.0/0"]}, "must not have 0.0.0.0/0, which is every address"),
        ({"addresses": "10.0.0.1"}, "must have a list of addresses, got a str"),
        ({}, 'must be a dict with "token", "addresses" or both'),
        ({"tokens": "x"}, 'must be a dict with "token", "addresses" or both'),
    ],
)
def test_the_setting_is_checked(value: object, fault: str) -> None:
    """The message never shows a token."""
    with pytest.raises(ConfigurationError) as caught:
        ProjectOptions.read({"status": value})
    assert f"RINGCACHE['status']: {fault}" in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres
def test_a_database_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks it several times; the later ones fail at once, until the late answer has come."""
    monkeypatch.setattr("cachebackend.monitoring.outbox.READ_TIMEOUT", 0.2)
    with session("LOCK TABLE cachebackend_outboxrow"):
        assert "default" in outbox_databases.ask_databases(lambda using: time, 5.0, ["default"]).found
        assert outbox_figures().rows is None
        asked = outbox_databases.ask_databases(lambda using: time, 5.0, ["default"])
        assert str(asked.errors["default"]) == "no answer within 5 s"


@pytest.mark.usefixtures("_urls")
def test_processes_that_no_node_returns_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list would read as a site without processes."""
    monkeypatch.setattr("cachebackend.monitoring.site.process_figures", ProcessFigures)
    page = Client().get("/status/", headers=BEARER).content.decode()
    assert re.search(r"Processes</h2>\s*<p>unknown</p>", page)

"""The processes of the site: they see each other, and name the one that has other settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import StringIO
from typing import Any

import pytest
from celery import Celery, signals
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client, override_settings

from cachebackend import RingCache, protocol, tasks
from cachebackend.admin.page import _process_rows
from cachebackend.monitoring import process_figures, versions, worker_figures
from cachebackend.protocol.queue import Partition
from cachebackend.telemetry import processes, shutdown, this_process
from cachebackend.telemetry.agreed_settings import site_name
from cachebackend.telemetry.processes import read_processes, report_this_process, withdraw_this_process
from cachebackend.writebehind.running_drains import running
from cacheproject.services import Services
from tests.commands import report_of
from tests.waits import wait_until
from workers.app import app

#: Runs ``manage.py ring`` with ``--json``, and returns its object.
command = partial(report_of, "ring")

pytestmark = [
    pytest.mark.ring_of_nodes,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture(autouse=True)
def command_process() -> Iterator[None]:
    """This process is a new one, that serves no requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(this_process, "_process", this_process._Process())
        patch.setattr(this_process, "_facts", dict(this_process._facts))
        yield


@contextmanager
def another_process(kind: str = "web") -> Iterator[None]:
    """Be another process for a block: it has another id, and no kind but this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(this_process, "_process", this_process._Process())
        this_process.add_kind(kind)
        yield


def report_another(kind: str = "web", **settings: Any) -> None:
    """Report a process that has other settings, and read the settings of this one again."""
    with another_process(kind), override_settings(**settings):
        report_this_process()


def caches_with(settings: Any, **block: Any) -> dict[str, Any]:
    return {"default": settings.CACHES["default"] | block}


def test_a_process_sees_itself_and_the_others(ring_cache: RingCache) -> None:
    """With kind, host, command and version; one that ends is gone at once."""
    report_another("worker")
    assert sorted(each.kind for each in read_processes().found) == ["command", "worker"]
    with another_process("beat"):
        report_this_process()
        [beat] = process_figures().of_kind("beat")
        assert beat.id == this_process.process_id()
        assert beat.clock_ahead is not None
        withdraw_this_process()
    assert sorted(each.kind for each in read_processes().found) == ["command", "worker"]


def test_a_process_that_stops_reporting_is_shown_and_not_counted(
    ring_cache: RingCache, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, so its settings and its view of the nodes do not count any more."""
    report_another("web", CACHES=caches_with(settings, KEY_PREFIX="other"))
    assert [fault.kind for fault in process_figures().faults] == ["settings-differ"]
    monkeypatch.setattr(processes, "SILENT_SECONDS", -1.0)
    figures = process_figures()
    assert [each.kind for each in figures.processes or ()] == ["command"]
    assert [each.kind for each in figures.silent] == ["web"]
    assert (figures.differences, figures.faults, figures.of_kind("web")) == ([], [], [])
    report = command("processes")
    assert [each["kind"] for each in report["silent"]] == ["web"]
    out = StringIO()
    call_command("ring", "processes", stdout=out)
    assert f"{figures.silent[0].label} reported 0." in out.getvalue()
    page = _process_rows(figures)
    assert page is not None
    assert [(row["process"].kind, row["silent"]) for row in page["shown"]] == [("command", ""), ("web", "0")]


def test_two_versions_are_shown_and_are_a_fault_if_they_last(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling deploy has two for minutes."""
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(processes, "_version", lambda version=version: version)
        report_another("worker")
    report = command("processes")
    assert sorted(each["version"] for each in report["processes"]) == ["1.0", "1.1", "1.1"]
    out = StringIO()
    call_command("ring", "processes", stdout=out)
    assert "Versions of django-ringcache run side by side since " in out.getvalue()
    assert (_process_rows(process_figures()) or {})["versions"].endswith("1.0 (" + worker_label() + ")")
    monkeypatch.setattr(versions, "MAX_SECONDS", -60.0)
    [fault] = process_figures().faults
    assert fault.kind == "versions-differ"


def test_the_version_is_that_of_the_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade replaces the files of the package, and not the code of the processes that run."""
    before = processes._version()
    monkeypatch.setattr(processes, "version", lambda _: "99")
    assert processes._version() == before != "99"


def worker_label() -> str:
    return process_figures().of_kind("worker")[0].label


@pytest.mark.parametrize(
    ("block", "setting", "value"),
    [
        ({"KEY_PREFIX": "other"}, "CACHES['default']['KEY_PREFIX']", "'other'"),
        ({"VERSION": 2}, "CACHES['default']['VERSION']", "2"),
        ({"OPTIONS": {"codec": "json"}}, "CACHES['default']['OPTIONS']['codec']", "'json'"),
        ({"OPTIONS": {"hash_seed": "secret"}}, "CACHES['default']['OPTIONS']['hash_seed']", "a secret"),
    ],
)
def test_a_process_with_another_setting_is_a_fault(
    ring_cache: RingCache, settings: Any, block: dict[str, Any], setting: str, value: str
) -> None:
    """It is named, with the setting, its value and that of the others, also if its keys are other ones."""
    report_another("worker")
    report_another("web", CACHES=caches_with(settings, **block))
    figures = process_figures()
    [difference] = figures.differences
    assert (difference.process.kind, difference.setting, difference.value) == ("web", setting, value)
    [fault] = figures.faults
    assert fault.kind == "settings-differ"
    assert fault.message.startswith(f"{difference.process.label} has other settings: {setting} is {value}")
    assert fault.since == difference.process.started
    assert command("processes", code=1)["faults"] == [fault.message]


def test_two_swapped_names_are_a_fault(ring_cache: RingCache, settings: Any, services: Services) -> None:
    """The names and the weights are the same, so only the servers show it."""
    report_another("worker")
    report_this_process()
    a, b, c = services.ring_urls
    swapped = [a.replace("name=ring-a", "name=ring-b"), b.replace("name=ring-b", "name=ring-a"), c]
    report_another("web", CACHES=caches_with(settings, LOCATION=swapped))
    figures = process_figures()
    assert {each.process.kind for each in figures.differences} == {"web"}
    assert [(each.value, each.usual) for each in figures.differences] == [
        ("'ring-b'", "'ring-a'"),
        ("'ring-a'", "'ring-b'"),
    ]


@pytest.mark.postgres
def test_settings_of_write_behind_are_compared_too(ring_cache: RingCache, settings: Any) -> None:
    """Another number of partitions, or another prefix, than the others have."""
    report_another("worker")
    report_another("web", WRITE_BEHIND=settings.WRITE_BEHIND | {"partitions": 3, "prefix": "other"})
    assert [(each.setting, each.value) for each in process_figures().differences] == [
        ("WRITE_BEHIND['prefix']", "'other'"),
        ("WRITE_BEHIND['partitions']", "3"),
    ]


def test_a_dead_node_hides_no_process(ring_cache: RingCache, services: Services) -> None:
    """Each process reports to all nodes."""
    services.kill("ring-a")
    try:
        report_another("worker")
        assert len(process_figures().of_kind("worker")) == 1
    finally:
        services.restart("ring-a")


def test_another_site_on_the_same_nodes_is_not_seen(ring_cache: RingCache) -> None:
    """Sites differ in the name of their database or package, or in RINGCACHE["site"]."""
    report_another("worker", RINGCACHE={"site": "another"})
    assert process_figures().of_kind("worker") == []


def test_a_forged_report_is_left_out(ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is needed is missing, or it is not JSON."""
    for report in (b"{", b"[]", b'{"kind": 7}', b'{"clock": "x", "settings": {"a": 1}}'):
        monkeypatch.setattr(processes, "_report", lambda report=report: report)
        with another_process():
            report_this_process()
    monkeypatch.undo()
    assert len(read_processes().found) == 1


_VIEW = {"alias": "default", "node": "ring-b", "state": "ejected", "since": 1.0, "probe_in": 1.0}


@pytest.mark.parametrize(
    "damage",
    [
        {"pid": math.inf},
        {"clock": math.inf},
        {"started": math.nan},
        {"started": 1e18},
        {"host": "\ud800"},
        {"settings": {"CACHES['default']['VERSION']": ["x", "\ud800"]}},
        {"views": [_VIEW | {"alias": ["default"]}]},
        {"views": [_VIEW | {"node": {}}]},
        {"views": [_VIEW | {"error": "\ud800"}]},
        {"views": [_VIEW | {"since": math.nan}]},
        {"views": [_VIEW | {"probe_in": "soon"}]},
        {"facts": {"drains": [["demo.article:1", math.inf]]}},
        {"nested": "nested"},
    ],
)
def test_a_damaged_report_ends_no_view(
    damage: dict[str, Any], ring_cache: RingCache, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page, the metrics and the commands show the other processes."""
    settings.RINGCACHE_METRICS_TOKEN = token = "a-token-of-24-characters"
    settings.RINGCACHE = {**getattr(settings, "RINGCACHE", {}), "status": {"token": token}}
    whole = json.loads(processes._report())
    report = json.dumps(whole | damage).replace('"nested"}', "[" * 100_000 + "]" * 100_000 + "}").encode()
    monkeypatch.setattr(processes, "_report", lambda: report)
    with another_process():
        report_this_process()
    monkeypatch.undo()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    for path in ("/admin/cachebackend/ring/", "/ring-status/?format=json", "/ring-status/", "/metrics/"):
        response = client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 200
    out = StringIO()
    with suppress(SystemExit):
        call_command("ring", "processes", stdout=out)
    assert "this command" in out.getvalue().encode().decode()


def test_a_report_has_no_password(ring_cache: RingCache, services: Services) -> None:
    """Nodes are shown by name and address."""
    report = processes._report().decode()
    passwords = [url.partition("//")[2].partition("@")[0].strip(":") for url in services.ring_urls]
    assert all(password and password not in report for password in passwords)
    assert "ring-a = " in report


@pytest.mark.parametrize(
    ("kinds", "kind", "text"),
    [
        (["worker"], "no-beat", "A worker runs (worker "),
        (["beat"], "no-worker", "Beat runs (beat "),
        ([], "no-worker", "No Celery worker runs, and no beat"),
        (["worker", "beat"], "tasks-late", "A worker (worker "),
    ],
)
def test_the_missing_one_of_worker_and_beat_is_named(
    ring_cache: RingCache, kinds: list[str], kind: str, text: str
) -> None:
    """When the periodic tasks do not run."""
    for each in kinds:
        report_another(each)
    [fault] = worker_figures(process_figures()).faults
    assert fault.kind == kind
    assert fault.message.startswith(text)


def test_the_drains_of_a_process_are_listed(ring_cache: RingCache) -> None:
    """With the time since when."""
    with another_process("worker"), running(Partition("demo.article", 3)):
        report_this_process()
    [worker] = process_figures().of_kind("worker")
    [(partition, since)] = worker.drains
    assert partition == "demo.article:3"
    assert since >= worker.started - 1


def test_a_process_tells_how_it_sees_the_nodes(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that it ejected, since when, and when it tries again; others do reach it."""
    monkeypatch.setattr("cachebackend.monitoring.node_views.PARTLY_SECONDS", -1.0)
    with another_process():
        breaker = ring_cache.client.nodes[0].breaker
        assert breaker is not None
        breaker.failed(OSError("no route"), at_once=True)
        report_this_process()
        breaker.close()
    report_this_process()
    figures = process_figures()
    [web] = figures.of_kind("web")
    [view] = web.views
    assert (view.node, view.state, view.error) == ("ring-a", "ejected", "no route")
    assert view.since is not None
    assert 0 < (view.probe_in or 0) <= 1
    [fault] = figures.faults
    assert fault.kind == "node-partly-reached"


def test_a_process_reports_at_once_that_a_node_is_away_and_back(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it is idle: the thread that reports starts the probe of the node."""
    monkeypatch.setattr(shutdown, "INTERVAL_SECONDS", 600.0)
    monkeypatch.setattr(shutdown, "LOOK_SECONDS", 0.01)
    breaker = ring_cache.client.nodes[0].breaker
    assert breaker is not None
    publisher = shutdown._Publisher()
    publisher.start()
    try:
        wait_until(lambda: away(ring_cache) == [])
        breaker.failed(OSError("no route"), at_once=True)
        wait_until(lambda: away(ring_cache) == ["ring-a"])
        wait_until(lambda: not breaker.is_open)
        wait_until(lambda: away(ring_cache) == [])
    finally:
        publisher.end()


def away(cache: RingCache) -> list[str] | None:
    """Return the nodes that this process does not use, as it has reported it; None: it has not."""
    _, stored = cache.client.run(protocol.telemetry.read_processes(site_name(), cache.client.indexes))
    reported = stored.get(this_process.process_id())
    return None if reported is None else [view["node"] for view in json.loads(reported[0])["views"]]


def test_celery_tells_worker_and_beat(ring_cache: RingCache) -> None:
    """By its signals. A worker with ``-B`` and the threads pool is both."""
    assert tasks.report_beat is not None  # the module connects the signals
    signals.worker_process_init.send(sender=None)
    assert this_process.kind() == "worker"
    signals.beat_init.send(sender=None)
    assert this_process.kind() == "worker+beat"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://user:secret@h:6379/3", "h:6379"),
        ("redis://:secret@h:6380/3;redis://:secret@g/1", "h:6380"),
        ("amqp://user:secret@h//", "h"),
    ],
)
def test_a_worker_reports_the_address_of_its_broker(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str
) -> None:
    """Without user and password, which the page must not show."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)  # Celery prefers it
    assert tasks.broker_address(Celery("site", broker=url)) == address


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["celery", "-A", "shop", "worker"], "shop"),
        (["celery", "worker", "--app", "shop.jobs"], "shop.jobs"),
        (["celery", "--app=shop:app", "beat"], "shop:app"),
        (["manage.py", "celery", "-A"], "cacheproject"),
    ],
)
def test_a_worker_tells_the_name_of_its_app(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch, words: list[str], name: str
) -> None:
    """As its command line has it, so that a fault can name the command that starts another one."""
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(tasks, "current_app", app)
    monkeypatch.setitem(this_process._facts, "app", tasks.app_name)
    with another_process("worker"):
        report_this_process()
    [worker] = process_figures().of_kind("worker")
    assert worker.app == name


def test_processes_see_each_other_in_a_cluster(cluster_services: Services) -> None:
    """One shard has the reports; its name may differ between processes, and so may the hosts of the URL."""
    block = {"BACKEND": "cachebackend.RingCache", "LOCATION": cluster_services.ring_urls}
    with override_settings(CACHES={"default": block}):
        with another_process("worker"):
            report_this_process()
        figures = process_figures()
    assert [each.kind for each in figures.processes or ()] == ["command", "worker"]
    assert figures.faults == []

"""The alert rules and the dashboard: on the metrics of incidents, and against the metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from django.conf import settings as django_settings
from django.db import OperationalError
from django.db.backends.utils import CursorWrapper
from django.db.models import F
from django.test import Client, override_settings
from django.utils import timezone

from cachebackend import RingCache
from cachebackend.errors import RingCacheError
from cachebackend.models import OutboxRow, ParkedWrite
from cachebackend.monitoring import faults
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.heartbeat import record_run
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.fix_services import close_breakers, restart_queue
from tests.integration.test_prometheus import TOKEN
from tests.integration.write_behind import drain_all
from tests.node_settings import node_settings
from tests.promtool import RULES, Step, promtool_binary, unexpected_alerts
from tests.shop.models import Meter
from tests.waits import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "ring_cache"),
]
PRODUCTION = RULES.parent / "production.md"
DASHBOARD = RULES.parent / "grafana.json"
needs_promtool = pytest.mark.skipif(
    promtool_binary() is None, reason="no promtool: set PROMTOOL, or install it"
)
#: The metric that grows with time while the worker runs.
LAST_RUN = "ringcache_task_last_run_timestamp_seconds"
#: Checks that exactly these alerts fire at the end of some steps.
Fires: TypeAlias = Callable[..., None]


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    """The token that a scrape sends."""
    settings.RINGCACHE_METRICS_TOKEN = "secret"


@pytest.fixture
def fires(tmp_path: Path) -> Fires:
    """Evaluate the rules on some steps, and compare the alerts that fire at the end."""

    def check(steps: list[Step], *alerts: str) -> None:
        assert unexpected_alerts(tmp_path, steps, alerts) == ""

    return check


def scraped() -> dict[str, float]:
    """Return the samples of a scrape, by name and labels."""
    text = Client().get("/metrics/", headers=TOKEN).content.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("ringcache_")]
    return {series: float(value) for series, _, value in lines if "_created" not in series}


def well(seconds: int = 600) -> Step:
    """Return the site as it is before an incident; its worker runs."""
    return during(seconds)


def during(seconds: int = 120, *growing: str) -> Step:
    """Return the site during an incident; its worker runs."""
    record_run("tick")
    record_run("relay")
    return Step(scraped(), seconds, (LAST_RUN, *growing))


def write(meter: Meter) -> None:
    with suppress(RingCacheError):
        Meter.behind.update(meter.pk, count=F("count") + 1)


def written_without_queue(services: Services, meter: Meter) -> Step:
    """Return what is shown of writes while the queue node is dead."""
    services.kill("queue-a")
    try:
        write(meter)
        return during()
    finally:
        restart_queue(services)


@needs_promtool
class TestIncidents:
    """Each incident is made on real servers, and its metrics are recorded."""

    def test_nothing_fires_while_all_is_well(self, fires: Fires, ring_cache: RingCache) -> None:
        """Keys are read, a row is written and drained."""
        meter = Meter.objects.create()
        before = well()
        write(meter)
        ring_cache.get("k")
        drain_all()
        fires([before, during(600)])

    @pytest.mark.ring_of_nodes
    def test_a_ring_node_that_is_killed_and_restarted(
        self, fires: Fires, ring_cache: RingCache, services: Services
    ) -> None:
        """It fires while the node is down; then it is only said that the node was restarted."""
        before = well()
        before.samples['ringcache_node_uptime_seconds{alias="default",node="ring-a"}'] += 900  # type: ignore[index]
        services.kill("ring-a")
        try:
            down = during(60)
        finally:
            services.restart("ring-a")
        fires([before, down], "RingcacheNodeDown")
        close_breakers(ring_cache.client.nodes)
        without = 'ringcache_node_processes_without{alias="default",node="ring-a"}'
        wait_until(lambda: not scraped().get(without))  # this process reports that it reaches the node
        fires([before, down, during(300)], "RingcacheNodeRestarted")

    @pytest.mark.postgres
    def test_a_queue_node_that_is_killed(self, fires: Fires, services: Services) -> None:
        """Writes fail, too."""
        meter = Meter.objects.create()
        before = well()
        step = written_without_queue(services, meter)
        fires([before, step], "RingcacheQueueNodeDown", "RingcacheWritesRefused")

    @pytest.mark.postgres
    def test_writes_that_are_dropped(
        self, fires: Fires, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The site does not notice, so an alert must."""
        monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
        meter = Meter.objects.create()
        with override_settings(WRITE_BEHIND=django_settings.WRITE_BEHIND | {"on_unavailable": "drop"}):
            before = well()
            step = written_without_queue(services, meter)
        fires([before, step], "RingcacheQueueNodeDown", "RingcacheWritesDropped")

    @pytest.mark.postgres
    def test_a_queue_node_whose_memory_is_full(self, fires: Fires) -> None:
        """Writes fail, and no alert blames the worker."""
        meter = Meter.objects.create()
        before = well()
        node = project_queue().nodes[0]
        with node_settings(node, maxmemory="1mb"):
            write(meter)
            step = during()
        fires([before, step], "RingcacheQueueNodeFull", "RingcacheWritesRefused")

    def test_a_queue_node_whose_disk_is_full(self, fires: Fires) -> None:
        """As ``test_queue_memory_and_disk`` sees it exported."""
        before, step = well(), during()
        step.samples['ringcache_queue_node_file_written{node="queue-a"}'] = 0  # type: ignore[index]
        fires([before, step], "RingcacheQueueNodeDisk")

    @pytest.mark.ring_of_nodes
    def test_a_process_that_differs_and_does_not_reach_a_node(self, fires: Fires) -> None:
        """As ``monitoring.processes`` finds it: the process that is scraped reaches the node."""
        before, step = well(), during()
        step.samples["ringcache_processes_differing"] = 1  # type: ignore[index]
        step.samples['ringcache_node_processes_without{alias="default",node="ring-a"}'] = 1  # type: ignore[index]
        fires([before, step], "RingcacheSettingsDiffer", "RingcacheNodePartlyReached")

    def test_a_database_that_does_not_answer(self, fires: Fires, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing else fires: what is not known is not exported."""
        before = well()

        def refuse(*_: Any) -> None:
            raise OperationalError("the connection is closed")

        with monkeypatch.context() as patched:
            patched.setattr(CursorWrapper, "execute", refuse)
            step = during()
        fires([before, step], "RingcacheDatabaseDown")

    def test_deletes_that_stay_pending(self, fires: Fires) -> None:
        """No relay acts on an outbox row."""
        before = well()
        OutboxRow.objects.create(keys=b"", created=timezone.now() - timedelta(seconds=20))
        fires([before, during(60, "ringcache_outbox_lag_seconds")], "RingcacheDeletesPending")

    @pytest.mark.postgres
    def test_writes_that_are_not_drained(self, fires: Fires, monkeypatch: pytest.MonkeyPatch) -> None:
        """The worker for drains is gone; beat and the relay run. The age follows the flush interval."""
        before = well()
        write(Meter.objects.create())
        growing = "ringcache_behind_oldest_seconds"
        fires([before, during(180, growing)])
        monkeypatch.setattr(faults, "MIN_WAITING_SECONDS", 0.0)
        monkeypatch.setattr(faults, "MAX_WAITING_INTERVALS", 0)
        fires([before, during(180, growing)], "RingcacheWritesWait")

    def test_a_write_that_is_parked(self, fires: Fires) -> None:
        """A person must retry or discard it."""
        before = well()
        ParkedWrite.objects.create(label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no")
        fires([before, during()], "RingcacheWritesParked")

    @pytest.mark.postgres
    def test_a_partition_that_has_stopped(self, fires: Fires) -> None:
        """The queue node was emptied after a drain."""
        write(Meter.objects.create())
        before = well()
        drain_all()
        project_queue().nodes[0].call((b"FLUSHALL",))
        write(Meter.objects.create())
        step = during()
        fires([before, step], "RingcachePartitionStopped")

    def test_a_site_whose_metrics_are_missing(self, fires: Fires) -> None:
        """No process answers the scrape."""
        fires([well(), Step({}, 600)], "RingcacheMetricsMissing")

    def test_evictions_and_misses_beyond_the_usual(self, fires: Fires) -> None:
        """Ten times the evictions of the day, and less than half of its hit ratio."""
        names = ("evicted_keys", "hits", "misses")
        series = [f'ringcache_{name}_total{{alias="default"}}' for name in names[1:]]
        evicted = 'ringcache_node_evicted_keys_total{alias="default",node="ring-a"}'
        steps = []
        samples = dict(well().samples) | dict.fromkeys([*series, evicted], 0.0)
        for minute in range(60):
            is_bad = minute >= 30
            samples = dict(samples)
            samples[series[0]] += 100 if is_bad else 6000
            samples[series[1]] += 6000 if is_bad else 100
            samples[evicted] += 60_000 if is_bad else 60
            steps.append(Step(samples, 60))
        fires(steps, "RingcacheEvictions", "RingcacheHitRatio")


@needs_promtool
def test_a_worker_that_has_stopped_or_never_ran(fires: Fires, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert follows the page: a task that the project does not need any more is not missed."""
    fires([Step(scraped(), 120)], "RingcacheNoWorker")
    record_run("relay")
    fires([Step(scraped(), 120)], "RingcacheNoWorker")
    with override_settings(WRITE_BEHIND={"nodes": []}):
        fires([Step(scraped(), 120)])
    before = well(60)
    monkeypatch.setattr(faults, "MAX_RUN_AGE_SECONDS", -1.0)
    monkeypatch.setattr(faults, "MAX_RUN_INTERVALS", -1)
    fires([before, Step(scraped(), 120)], "RingcacheNoWorker")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def kinds_of(rule: dict[str, Any]) -> list[str]:
    """Return the kinds of faults that a rule names in its expression."""
    return [kind for text in re.findall(r'kind=~?"([^"]+)"', rule["expr"]) for kind in text.split("|")]


def test_each_fault_of_the_page_has_an_alert() -> None:
    """By its kind, or by the figures behind it: then the rule links to its section. Notes have none."""
    linked = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in rules()}
    named = {kind for rule in rules() for kind in kinds_of(rule)}
    notes = {FaultKind.QUERY_NOT_CACHED, FaultKind.SERVER_WITHOUT_SLOTS}
    assert set(FaultKind) - linked - named == notes
    assert named <= set(FaultKind)


@needs_promtool
def test_a_fault_without_figures_of_its_own_fires(fires: Fires) -> None:
    """An outbox row that cannot be read, a clock that is wrong, a registry that is full."""
    for kind, alert in (("outbox-unreadable", "RingcacheFault"), ("shapes-full", "RingcacheMinorFault")):
        before, step = well(60), during(600)
        step.samples[f'ringcache_faults{{kind="{kind}"}}'] = 1  # type: ignore[index]
        fires([before, step], alert)


def test_each_rule_and_panel_uses_metrics_that_exist() -> None:
    """A rule on a metric that is not exported would never fire."""
    Meter.objects.count()
    text = Client().get("/metrics/", headers=TOKEN).content.decode()
    families = dict(re.findall(r"^# TYPE (ringcache_\w+) (\w+)", text, re.MULTILINE))
    parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    exported = {
        name.removesuffix("_total") + part if kind == "counter" else name + part
        for name, kind in families.items()
        for part in parts[kind]
    }
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [rule["expr"] for rule in rules()]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    used = {
        name for expression in (*expressions, *shown) for name in re.findall(r"ringcache_\w+", expression)
    }
    assert used <= exported
    in_rules = {name for expression in expressions for name in re.findall(r"ringcache_\w+", expression)}
    in_panels = {name for expression in shown for name in re.findall(r"ringcache_\w+", expression)}
    assert in_rules <= in_panels, "each figure that can alert has a panel"


def test_each_rule_links_to_a_section_of_the_runbook() -> None:
    """With a summary, and how urgent it is."""
    headings = set(re.findall(r"^#+ (.+)$", PRODUCTION.read_text(), re.MULTILINE))
    for rule in rules():
        page, _, section = rule["annotations"]["runbook_url"].partition("#")
        sections = set(kinds_of(rule)) if section == "{{ $labels.kind }}" else {section}
        assert (page, sections <= headings) == ("docs/production.md", True), rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"page", "ticket"}

"""``manage.py ring``, for people and for scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.utils import timezone

from cachebackend import RingCache
from cachebackend.errors import ConfigurationError, NodeUnavailableError
from cachebackend.invalidation import relay
from cachebackend.invalidation.outbox import write_row
from cachebackend.invalidation.outbox_keys import read_row
from cachebackend.management import ring_doctor, ring_status
from cachebackend.management.commands import ring
from cachebackend.models import OutboxRow
from cachebackend.monitoring import alias_figures, evictions, outbox
from cachebackend.node import Node
from cachebackend.options import NodeAddress, RingOptions
from cachebackend.telemetry import this_process
from cachebackend.telemetry.heartbeat import record_run
from cachebackend.telemetry.processes import report_this_process
from cacheproject.services import Services
from tests.commands import report_of
from tests.node_settings import node_settings

#: Runs ``manage.py ring`` with ``--json``, and returns its object.
command = partial(report_of, "ring")

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture(autouse=True)
def worker(empty_nodes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has just run the periodic tasks; no node was looked at before it evicted for another test."""
    monkeypatch.setattr(evictions, "_looks", {})
    monkeypatch.setattr(evictions, "MIN_RATE_SECONDS", 0.0)
    for task in ("relay", "tick"):
        record_run(task)


@pytest.mark.ring_of_nodes
def test_status_shows_each_node(services: Services) -> None:
    """It exits with 1 while one is down."""
    report = command("status", "--alias", "default")["aliases"]["default"]
    assert [(each["node"], each["state"]) for each in report] == [
        ("ring-a", "up"),
        ("ring-b", "up"),
        ("ring-c", "up"),
    ]
    out = StringIO()
    call_command("ring", "status", stdout=out)
    assert "allkeys-" in out.getvalue()
    head = out.getvalue().splitlines()[1:3]
    column = head[0].index("pending")
    assert head[0][column:].startswith("pending keys") or head[1][column:].startswith("keys")
    services.kill("ring-b")
    try:
        report = command("status", code=1)
    finally:
        services.restart("ring-b")
    assert [each["state"] for each in report["aliases"]["default"]] == ["up", "down", "up"]


@pytest.mark.ring_of_nodes
def test_status_shows_that_a_node_missed_deletes(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers again, so it is up, and the missed delete is still pending for it."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    client = ring_cache.client
    node = client.nodes[client.ring.owner(ring_cache.key_bytes("k"))]
    assert node.breaker is not None
    node.breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    ring_cache.delete("k")
    [report] = [each for each in command("status", code=1)["aliases"]["default"] if each["node"] == node.name]
    assert report["state"] == "down"
    node.breaker.close()
    OutboxRow.objects.update(created=timezone.now() - timedelta(minutes=1))
    report = {each["node"]: (each["state"], each["owed"]) for each in command("status")["aliases"]["default"]}
    assert report == dict.fromkeys(client.ring.names, ("up", 0)) | {node.name: ("up", 1)}
    relay()
    assert {each["state"] for each in command("status")["aliases"]["default"]} == {"up"}


@pytest.mark.parametrize(("age", "expected"), [(61, 0), (63, 1)])
def test_an_intent_that_the_relay_would_have_deleted_is_a_missed_delete(
    ring_cache: RingCache, age: float, expected: int
) -> None:
    """The relay keeps what an earlier release wrote before a statement for a minute."""
    key = ring_cache.key_bytes("k")
    write_row("default", {"default": {key}})
    OutboxRow.objects.update(is_intent=True, created=timezone.now() - timedelta(seconds=age))
    report = command("status")["aliases"]["default"]
    owner = ring_cache.client.ring.names[ring_cache.client.ring.owner(key)]
    assert {each["node"]: each["owed"] for each in report if each["owed"]} == ({owner: 1} if expected else {})


@pytest.mark.ring_of_nodes
def test_status_calls_a_healthy_node_up_while_another_is_down(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has missed no delete: the rows are young, or intents, or wait for the dead node alone."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    client = ring_cache.client
    keys = {client.ring.owner(key): key for key in map(ring_cache.key_bytes, map(str, range(50)))}
    dead = client.nodes[0]
    assert dead.breaker is not None
    dead.breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    write_row("default", {"default": set(keys.values())})  # one transaction, with a key on each node
    intent = write_row("default", {"default": {keys[1]}})
    OutboxRow.objects.filter(pk=intent).update(is_intent=True)  # as an earlier release writes it
    OutboxRow.objects.update(created=timezone.now() - timedelta(minutes=1))
    write_row("default", {"default": {keys[0], keys[1]}})
    write_row("default", {"default": {keys[2]}})
    report = {
        each["node"]: (each["state"], each["owed"])
        for each in command("status", code=1)["aliases"]["default"]
    }
    assert report == {"ring-a": ("down", 1), "ring-b": ("up", 0), "ring-c": ("up", 0)}


@pytest.fixture
def two_aliases(settings: Any, services: Services) -> Iterator[RingCache]:
    """The default alias, and one with other options on the same servers, which is returned."""
    block = settings.CACHES["default"]
    other = block | {"OPTIONS": block.get("OPTIONS", {}) | {"stale_for": 7}}
    with override_settings(CACHES=settings.CACHES | {"other": other}):
        cache = caches["other"]
        assert isinstance(cache, RingCache)
        yield cache


@pytest.mark.parametrize("words", [(), ("--alias", "other")])
@pytest.mark.ring_of_nodes
def test_status_calls_the_nodes_of_one_alias_up_while_another_alias_has_a_dead_node(
    two_aliases: RingCache, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """One transaction changed keys of both aliases; its row waits for the dead node alone."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    dead = ring_cache.client.nodes[1]
    assert dead.breaker is not None
    dead.breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    keys = {ring_cache.client.ring.owner(key): key for key in map(ring_cache.key_bytes, map(str, range(50)))}
    others = {two_aliases.key_bytes(str(number)) for number in range(50)}
    write_row("default", {"default": {keys[1]}, "other": others})
    OutboxRow.objects.update(created=timezone.now() - timedelta(minutes=1))
    report = command("status", *words, code=0 if words else 1)["aliases"]
    assert [(each["state"], each["owed"]) for each in report["other"]] == [("up", 0)] * 3
    if not words:
        assert [(each["state"], each["owed"]) for each in report["default"]] == [
            ("up", 0),
            ("down", 1),
            ("up", 0),
        ]


def test_status_reads_each_outbox_row_once(
    two_aliases: RingCache, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all aliases and nodes."""
    read: list[int] = []

    def record(row: OutboxRow) -> Any:
        read.append(row.pk)
        return read_row(row)

    monkeypatch.setattr(outbox, "read_row", record)
    for number in range(3):
        keys = {two_aliases.key_bytes(str(number))}
        write_row("default", {"default": {ring_cache.key_bytes(str(number))}, "other": keys})
    command("status")
    assert len(read) == 3


def test_status_says_when_it_did_not_count_every_outbox_row(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts the oldest rows, up to a limit for each database."""
    for number in range(3):
        write_row("default", {"default": {ring_cache.key_bytes(str(number))}})
    OutboxRow.objects.update(created=timezone.now() - timedelta(minutes=1))
    for module in (outbox, ring_status):
        monkeypatch.setattr(module, "MAX_COUNTED_ROWS", 2)
    report = command("status")
    assert report["incomplete"] == ["default"]
    assert sum(each["owed"] for each in report["aliases"]["default"]) == 2
    out = StringIO()
    call_command("ring", "status", stdout=out)
    assert "database 'default' has more than 2 outbox rows: only the oldest 2 were counted" in out.getvalue()
    for module in (outbox, ring_status):
        monkeypatch.setattr(module, "MAX_COUNTED_ROWS", 3)
    assert command("status")["incomplete"] == []


def test_owner_shows_the_node_of_a_key_and_its_record(ring_cache: RingCache) -> None:
    """For any version."""
    ring_cache.set("k", {"a": 1}, 100, version=3)
    report = command("owner", "k", "--version", "3")
    assert (
        report["owner"]
        == ring_cache.client.ring.names[ring_cache.client.ring.owner(ring_cache.key_bytes("k", 3))]
    )
    assert (report["holds"], report["ttl_seconds"] > 90) == ("value", True)
    assert command("owner", "other")["holds"] == "nothing"


@pytest.mark.ring_of_nodes
def test_plan_says_how_many_keys_move(ring_cache: RingCache) -> None:
    """A fourth node takes its quarter, and nothing else moves."""
    urls = [node.address.setting for node in ring_cache.client.nodes]
    report = command("plan", *urls, "redis://10.0.0.9:6379/0?name=ring-d")
    assert 0.22 < report["moved"] < 0.28
    assert report["nodes"]["ring-d"]["now"] == 0
    assert command("plan", *urls)["moved"] == 0
    with pytest.raises(CommandError, match="ring plan"):
        call_command("ring", "plan", "nonsense")


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (
            ["redis://h:1?name=a", "nonsense"],
            "ring plan: URL 2 ('nonsense'): must begin with one of redis://",
        ),
        (["http://me:hunter2@h:1"], "ring plan: URL 1: must begin with one of redis://"),
        (["redis://h:1?name=a"] * 2, "ring plan: URL 2 ('redis://h:1?name=a'): a second node is named 'a'"),
    ],
)
def test_plan_says_which_url_is_wrong_and_what_to_write(urls: list[str], message: str) -> None:
    """It does not show a URL that may hold a password."""
    with pytest.raises(CommandError) as raised:
        call_command("ring", "plan", *urls)
    assert str(raised.value).startswith(message)
    assert str(raised.value).endswith("Write redis://HOST:PORT/0?name=NAME, as in LOCATION")
    assert "hunter2" not in str(raised.value)


def test_the_alias_may_come_before_the_action(ring_cache: RingCache) -> None:
    """As every other option may."""
    out = StringIO()
    call_command("ring", "--alias", "default", "owner", "k", stdout=out)
    assert "holds: nothing" in out.getvalue()
    with pytest.raises(CommandError, match="'x' is not a ring cache"):
        call_command("ring", "--alias", "x", "status")


@pytest.mark.ring_of_nodes
def test_plan_prints_the_settings_of_each_deploy(ring_cache: RingCache, services: Services) -> None:
    """Pasted below CACHES they change the ring, deploy by deploy; they hold no password."""
    old = services.ring_urls
    new = [*old, "redis://me:hunter2@10.0.0.9:6379/1?name=ring-d&weight=2"]
    text = command("plan", *new)["settings"]
    assert "hunter2" not in text
    assert '"redis://***@10.0.0.9:6379/1?name=ring-d&weight=2"' in text
    head, *deploys = text.split("# Deploy ")
    found = []
    for deploy in deploys:
        pasted: dict[str, Any] = {"CACHES": {"default": {"LOCATION": [], "OPTIONS": {"stale_for": 5}}}}
        exec(f"{head}#{deploy}", pasted)  # as people paste them into settings
        block = pasted["CACHES"]["default"]
        found.append(RingOptions.read(block["LOCATION"], block["OPTIONS"], "CACHES['default']"))
        assert found[-1].stale_for == 5
    rings = [([*map(name_of, each.nodes)], len(each.joining), len(each.leaving), each.warm) for each in found]
    three, four = ["ring-a", "ring-b", "ring-c"], ["ring-a", "ring-b", "ring-c", "ring-d"]
    assert rings == [(three, 4, 0, True), (four, 0, 3, True), (four, 0, 3, False), (four, 0, 0, True)]
    assert [node.weight for node in found[-1].nodes] == [1, 1, 1, 2]
    out = StringIO()
    call_command("ring", "plan", *new, stdout=out)
    assert text in out.getvalue()


def name_of(node: NodeAddress) -> str:
    return node.name


@pytest.mark.ring_of_nodes
def test_plan_counts_the_keys_of_a_server_that_is_replaced_under_its_name(ring_cache: RingCache) -> None:
    """All of its keys move. To rename a server is refused."""
    urls = [node.address.setting for node in ring_cache.client.nodes]
    report = command("plan", "redis://10.0.0.9:6379/0?name=ring-a", *urls[1:])
    assert report["moved"] == report["nodes"]["ring-a"]["now"] == report["nodes"]["ring-a"]["then"]
    report = command("plan", urls[0].replace("ring-a", "ring-x"), *urls[1:], code=1)
    assert "has as 'ring-x' the server that LOCATION has as 'ring-a'" in report["fault"]
    assert report["settings"] is None


@pytest.fixture
def changing(settings: Any, services: Services) -> Iterator[RingCache]:
    """The default alias while a second node joins its ring of one, with a third node in its gutter."""
    a, b, c = services.ring_urls
    block = settings.CACHES["default"] | {"LOCATION": [a], "OPTIONS": {"joining": [a, b], "gutter": [c]}}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches["default"]
        assert isinstance(cache, RingCache)
        yield cache


@pytest.mark.ring_of_nodes
def test_status_shows_the_nodes_beside_the_ring(changing: RingCache, services: Services) -> None:
    """Their role is shown instead of a share; doctor checks them too."""
    report = command("status", "--alias", "default")["aliases"]["default"]
    assert [(each["node"], each["state"], each["share"]) for each in report] == [
        ("ring-a", "up", "100.0%"),
        ("ring-b", "up", "joining"),
        ("ring-c", "up", "gutter"),
    ]
    spare = changing.client.nodes[2]
    with node_settings(spare, maxmemory_policy="noeviction"):
        for task in ("relay", "tick"):
            record_run(task)
        [fault] = command("doctor", "--alias", "default", code=1)["faults"]
    assert "node 'ring-c' refuses writes when it is full" in fault


@pytest.mark.ring_of_nodes
def test_doctor_compares_the_nodes_of_the_ring_with_the_settings(settings: Any, services: Services) -> None:
    """Nodes that join it, and those of its gutter, are set up apart."""
    a, b, c = services.ring_urls
    options = {"gutter": [c], "eviction": {"maxmemory": "200mb"}}
    block = settings.CACHES["default"] | {"LOCATION": [a, b], "OPTIONS": options}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        faults = command("doctor", "--alias", "default", code=1)["faults"]
    assert [fault.partition(" has maxmemory")[0] for fault in faults] == [
        "default: node 'ring-a'",
        "default: node 'ring-b'",
    ]


@pytest.mark.parametrize("words", [("cleanup",), ("cleanup", "--yes")])
@pytest.mark.ring_of_nodes
def test_cleanup_is_refused_during_a_ring_change(changing: RingCache, words: tuple[str, ...]) -> None:
    """The change reads keys from nodes that do not own them."""
    with pytest.raises(
        CommandError, match="end the ring change first: until then nodes are read for keys of others"
    ):
        call_command("ring", *words)
    assert "being changed already" in command("plan", "redis://h:1?name=x", code=1)["fault"]


@pytest.mark.ring_of_nodes
def test_cleanup_of_all_aliases_leaves_clusters_out(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster moves its keys itself; the other aliases are searched. A cluster that is named is refused."""
    clients: dict[str, Any] = {"default": ring_cache.client, "large": SimpleNamespace(cluster=object())}
    monkeypatch.setattr(
        ring, "clients_of", lambda alias: [(name, clients[name]) for name in ([alias] if alias else clients)]
    )
    monkeypatch.setattr(ring, "ring_aliases", lambda: [*clients])
    report = command("cleanup")
    assert report["default"] == {"foreign": 0, "deleted": 0}
    assert report["large"]["foreign"] is None
    assert "a cluster moves its slots" in report["large"]["refused"]
    with pytest.raises(CommandError, match="a cluster moves its slots"):
        call_command("ring", "cleanup", "--alias", "large")


def test_doctor_says_what_to_set(ring_cache: RingCache) -> None:
    """The fault names the alias, the node and the setting."""
    assert command("doctor") == {"faults": [], "details": [], "notes": [], "well": True}
    node = ring_cache.client.nodes[0]
    with node_settings(node, maxmemory_policy="noeviction"):
        [fault] = command("doctor", "--alias", "default", code=1)["faults"]
    assert "set allkeys-lfu" in fault


@pytest.mark.ring_of_nodes
def test_doctor_finds_nodes_that_evict_by_different_policies(ring_cache: RingCache) -> None:
    """Each of them alone is set up well."""
    node = ring_cache.client.nodes[0]
    with node_settings(node, maxmemory_policy="allkeys-lru"):
        [fault] = command("doctor", code=1)["faults"]
    assert "the nodes evict by different policies ('ring-a' allkeys-lru, 'ring-b' allkeys-lfu" in fault


@pytest.mark.ring_of_nodes
def test_doctor_sees_what_the_page_sees(ring_cache: RingCache, services: Services) -> None:
    """No worker runs, and a node is down: each once, with what to do."""
    services.kill("ring-b")
    try:
        for node in ring_cache.client.nodes:  # the times of the tasks
            node.call((b"FLUSHALL",))
        faults = command("doctor", code=1)["faults"]
    finally:
        services.restart("ring-b")
    down = r"Node ring-b \(127\.0\.0\.1:[0-9]+\) of 'default' is down: "
    assert any(re.match(down, fault) for fault in faults)
    assert [fault for fault in faults if "Start a worker, `celery -A " in fault]
    assert sum("ring-b" in fault for fault in faults) == 1


def test_a_node_that_is_full_and_evicts_nothing_is_a_fault(ring_cache: RingCache) -> None:
    """It answers, so it is up: nothing else says why values that were just stored miss."""
    node = ring_cache.client.nodes[0]
    with node_settings(node, maxmemory_policy="noeviction", maxmemory="1mb"):
        faults = alias_figures("default").faults
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("ring", "status", stdout=out)
    message = f"Node {node.name} of 'default' is full, so it refuses writes: it uses "
    assert [fault.kind for fault in faults if fault.message.startswith(message)] == ["node-refuses-writes"]
    assert f"not well: {message}" in out.getvalue()


@pytest.mark.ring_of_nodes
def test_doctor_notes_a_node_that_evicts_many_keys(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rate, the usual rate and the limit of its memory; the exit code says that the site is well."""
    node = ring_cache.client.nodes[0]

    def fill(_: float = 0) -> None:
        for number in range(400):
            node.call((b"SET", b"filler-%d" % number, bytes(20_000)))

    monkeypatch.setattr(ring_doctor.time, "sleep", fill)
    monkeypatch.setattr(evictions, "MIN_RATE_SECONDS", 0.0)
    monkeypatch.setattr(evictions, "_looks", {})
    with node_settings(node, maxmemory="4mb"):
        fill()
        node.call((b"CONFIG", b"RESETSTAT"))
        fill()
        [note] = command("doctor")["notes"]
        node.call((b"FLUSHALL",))
    assert f"Node {node.name} of 'default' evicts " in note
    assert "keys a second, usually " in note
    assert "of 4.0\N{NO-BREAK SPACE}MB. Find what fills it" in note
    memory = [row["memory"] for row in command("status")["aliases"]["default"]]
    assert all(re.fullmatch(r"[0-9.]+M [0-9]+%", each) for each in memory)


@pytest.mark.ring_of_nodes
def test_cleanup_warns_when_processes_have_other_settings(
    ring_cache: RingCache, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that this process takes for misplaced may be in their place for another one."""
    monkeypatch.setattr(this_process, "_process", this_process._Process())
    with override_settings(CACHES={"default": settings.CACHES["default"] | {"KEY_PREFIX": "other"}}):
        report_this_process()
    monkeypatch.setattr(this_process, "_process", this_process._Process())
    error = StringIO()
    call_command("ring", "cleanup", "--alias", "default", stdout=StringIO(), stderr=error)
    assert "warning: command " in error.getvalue()
    assert "has other settings: CACHES['default']['KEY_PREFIX'] is " in error.getvalue()


@pytest.mark.parametrize("words", [("status",), ("processes",), ("queries",)])
def test_tables_fit_a_terminal_of_80_columns(ring_cache: RingCache, words: tuple[str, ...]) -> None:
    """Cells are wrapped."""
    report_this_process()
    out = StringIO()
    call_command("ring", *words, stdout=out)
    assert max(map(len, out.getvalue().splitlines())) <= 80


@pytest.mark.ring_of_nodes
def test_cleanup_deletes_what_nodes_do_not_own(ring_cache: RingCache) -> None:
    """After a ring change; without ``--yes`` it only counts them."""
    ring_cache.set_many({f"k{n}": n for n in range(30)})
    key = ring_cache.key_bytes("k0")
    owner = ring_cache.client.ring.owner(key)
    stranger = ring_cache.client.nodes[(owner + 1) % 3]
    stranger.call((b"SET", key, b"1"))
    assert command("cleanup", "--alias", "default")["default"] == {"foreign": 1, "deleted": 0}
    assert command("cleanup", "--alias", "default", "--yes")["default"] == {"foreign": 1, "deleted": 1}
    assert stranger.call((b"EXISTS", key)) == 0
    assert len(ring_cache.get_many([f"k{n}" for n in range(30)])) == 30


def test_an_alias_that_is_not_a_ring_is_refused() -> None:
    """The message names the aliases that are."""
    with pytest.raises(CommandError, match="'x' is not a ring cache; the ring caches are: default"):
        call_command("ring", "status", "--alias", "x")


def test_configure_says_that_there_is_nothing_to_set() -> None:
    """Without OPTIONS['eviction'] it does not claim that the nodes agree with it."""
    out = StringIO()
    call_command("ring", "configure", "--alias", "default", stdout=out)
    assert out.getvalue() == "default: OPTIONS['eviction'] is not set, so there is nothing to configure\n"


@pytest.mark.ring_of_nodes
def test_configure_reports_a_node_that_does_not_answer(settings: Any, services: Services) -> None:
    """Its settings are unknown."""
    block = settings.CACHES["default"]
    eviction = {"maxmemory": "256mb", "policy": "allkeys-lfu"}
    options = block.get("OPTIONS", {}) | {"eviction": eviction}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        assert command("configure")["well"] is True
        services.kill("ring-b")
        try:
            report = command("configure", "--yes", code=1)
        finally:
            services.restart("ring-b")
    assert (report["aliases"], report["well"]) == ({"default": []}, False)
    assert "ring-b" in report["unseen"]["default"][0]


@pytest.mark.ring_of_nodes
def test_configure_sets_the_nodes_as_in_the_settings(settings: Any) -> None:
    """Without ``--yes`` it lists the differences and exits with 1; doctor reports them too."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"eviction": {"maxmemory": "200mb", "policy": "allkeys-lru"}}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        cache: Any = caches["default"]
        report = command("configure", "--alias", "default", code=1)
        assert len(report["aliases"]["default"]) == 6
        assert report["aliases"]["default"][0] == {
            "node": "ring-a",
            "setting": "maxmemory",
            "now": str(256 * 1024**2),
            "wanted": str(200 * 1024**2),
        }
        assert "has maxmemory-policy allkeys-lfu, not allkeys-lru" in str(command("doctor", code=1)["faults"])
        with ExitStack() as stack:
            for node in cache.client.nodes:
                stack.enter_context(node_settings(node, maxmemory="256mb", maxmemory_policy="allkeys-lfu"))
            assert command("configure", "--alias", "default", "--yes")["applied"] is True
            assert command("configure", "--alias", "default")["aliases"]["default"] == []


@pytest.mark.parametrize(
    ("eviction", "message"),
    [
        ({"policy": "noeviction"}, "must be one of allkeys-lfu"),
        ({"maxmemory": "much"}, "must be"),
        ({"maxmemory": 0}, "must be"),
        ("allkeys-lfu", "must be a dict or None"),
        ({"size": 1}, "unknown option"),
    ],
)
def test_faults_of_eviction_are_reported(eviction: Any, message: str) -> None:
    """With the path of the setting."""
    with pytest.raises(ConfigurationError, match=message) as raised:
        RingOptions.read("redis://h:1?name=a", {"eviction": eviction}, "CACHES['default']")
    assert "['OPTIONS']['eviction']" in str(raised.value)

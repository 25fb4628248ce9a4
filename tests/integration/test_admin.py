"""The ring page: its figures, its permissions, what it shows of a key, and what it deletes."""

from __future__ import annotations

import pickle
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.cache import caches
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from cachebackend import RingCache, protocol, writebehind
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation.outbox import write_row
from cachebackend.invalidation.outbox_keys import keys_of_row, stored_rows
from cachebackend.models import OutboxRow, ParkedWrite
from cachebackend.monitoring.formatting import moment
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.node import Node
from cachebackend.telemetry import heartbeat
from cachebackend.telemetry.heartbeat import record_run
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.integration.write_behind import one_partition

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


#: The markup between a fault and its time.
SINCE = '</a> <strong class="since">since '


@pytest.fixture
def url() -> str:
    return reverse("admin:cachebackend_ring_changelist")


@pytest.fixture
def act() -> str:
    return reverse("admin:cachebackend_ring_act")


@pytest.fixture
def client() -> Client:
    """Logged in, with every permission."""
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def worker(ring_cache: RingCache) -> None:
    """A worker has just run the periodic tasks."""
    for task in ("relay", "tick"):
        record_run(task)


def staff(*permissions: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.usefixtures("worker")
@pytest.mark.ring_of_nodes
def test_the_page_says_that_all_is_well(client: Client, url: str, ring_cache: RingCache) -> None:
    """And shows each node, in the ring and in the table."""
    page = client.get(url).content.decode()
    assert "All is well" in page
    assert 'class="tile bad"' not in page
    assert page.count('class="arc up"') == 3
    assert all(f'data-node="{name}"' in page for name in ("ring-a", "ring-b", "ring-c"))


@pytest.mark.ring_of_nodes
def test_it_stays_up_and_says_what_does_not_answer(
    client: Client, url: str, ring_cache: RingCache, services: Services
) -> None:
    """A node of the ring, and one of the queue."""
    for name in ("ring-b", "queue-a"):
        services.kill(name)
    try:
        page = client.get(url).content.decode()
    finally:
        for name in ("ring-b", "queue-a"):
            services.restart(name)
    assert "Not well" in page
    assert re.search(r"Node ring-b \([^)]*\) of &#x27;default&#x27; is down", page)
    assert "queue-a" in page
    assert page.count('class="arc up"') == 2


@pytest.mark.ring_of_nodes
def test_a_dead_node_comes_first_with_its_time(
    client: Client, url: str, ring_cache: RingCache, services: Services
) -> None:
    """In the verdict, and in its row, which is above the others."""
    services.kill("ring-c")
    try:
        client.get(url)
        page = client.get(url).content.decode()
    finally:
        services.restart("ring-c")
    assert re.search(rf"Node ring-c [^<]*{SINCE}\d\d:\d\d:\d\d \(", page)
    assert re.search(r"down</span> <span class=\"note\">since \d\d:\d\d:\d\d", page)
    rows = re.findall(r'<tr data-key="(ring-\w)"', page)
    assert rows == ["ring-c", "ring-a", "ring-b"]
    assert "down: ring-c" in page


def test_a_worker_that_does_not_run_is_a_fault_with_its_time(
    client: Client, url: str, ring_cache: RingCache
) -> None:
    """Before anything piles up; also if no worker ever ran."""
    message = "No Celery worker runs, and no beat, so {} not run."
    assert message.format("relay and tick do") in client.get(url).content.decode()
    record_run("tick")
    then, key = time.time() - 300, heartbeat._key(ring_cache)
    for node in protocol.telemetry.nodes_of(ring_cache.client.context, key):
        ring_cache.client.nodes[node].call((b"HSET", key, "tick", b"%d" % (then * 1000)))
    record_run("relay")
    page = client.get(url).content.decode()
    clock = moment(then).partition(" (")[0]  # with the day, if midnight was since then
    assert f"{message.format('tick does')}{SINCE}{clock} (5 min ago)" in page


@pytest.mark.ring_of_nodes
def test_a_large_ring_is_folded(client: Client, url: str, services: Services, settings: Any) -> None:
    """Nodes that are up are in a closed box; the gutter's nodes are there too, and own no slots."""
    server = services.ring_urls[0].rpartition("/")[0]
    nodes = [f"{server}/{number}?name=n{number}" for number in range(14)]
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"gutter": [f"{server}/14?name=spare"]}
    settings.CACHES = {"default": block | {"LOCATION": nodes, "OPTIONS": options}}
    page = client.get(url).content.decode()
    assert "<summary>The 15 nodes that are up</summary>" in page
    assert "14 of 14" in page
    assert page.count('class="arc up"') == 14
    assert re.search(r'data-node="spare".*?<td data-label="Slots">gutter</td>', page, re.DOTALL)


@pytest.mark.hangs
def test_the_page_waits_for_a_queue_node_no_longer_than_for_a_connection(
    client: Client, url: str, ring_cache: RingCache, services: Services, settings: Any
) -> None:
    """A write waits longer: for the answer, and for the disk."""
    settings.WRITE_BEHIND = settings.WRITE_BEHIND | {"connect_timeout": 0.2, "socket_timeout": 5.0}
    services.stop("queue-a")
    try:
        page = client.get(url).content.decode()
    finally:
        services.resume("queue-a")
    assert "node &#x27;queue-a&#x27; did not answer within 0.2 s" in page


@pytest.mark.parametrize(("permissions", "code"), [((), 403), (("view_ring",), 200), (("change_ring",), 200)])
def test_the_page_needs_a_permission(url: str, permissions: tuple[str, ...], code: int) -> None:
    """Only staff with a permission may view it."""
    assert staff(*permissions).get(url).status_code == code
    assert Client().get(url).status_code == 302


def test_a_key_is_shown_with_its_value_escaped(client: Client, url: str, ring_cache: RingCache) -> None:
    """And with its codec."""
    ring_cache.set("<b>", {"a": "<script>x</script>"}, 100)
    page = client.get(url, {"alias": "default", "key": "<b>"}).content.decode()
    assert "<script>x" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "msgpack extended" in page


def test_a_viewer_sees_no_value(url: str, ring_cache: RingCache) -> None:
    """Only that there is one, and no button."""
    ring_cache.set("k", {"a": "secret-text"}, 100)
    page = staff("view_ring").get(url, {"alias": "default", "key": "k"}).content.decode()
    assert "secret-text" not in page
    assert "Delete the key" not in page
    assert "value, " in page


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


def test_a_pickle_is_never_loaded(client: Client, url: str, ring_cache: RingCache) -> None:
    """It may come from anybody who can write to the node."""
    key = ring_cache.key_bytes("k")
    node = ring_cache.client.nodes[ring_cache.client.ring.owner(key)]
    node.call((b"SET", key, b"Vp\0" + pickle.dumps(Bomb())))
    page = client.get(url, {"alias": "default", "key": "k"}).content.decode()
    assert "a pickle, which this page does not load" in page


def test_a_record_that_is_not_a_value_is_shown_too(client: Client, url: str, ring_cache: RingCache) -> None:
    """Nothing, a lease, a broken record, an unknown alias."""
    assert "nothing" in client.get(url, {"alias": "default", "key": "k"}).content.decode()
    key = ring_cache.key_bytes("k")
    node = ring_cache.client.nodes[ring_cache.client.ring.owner(key)]
    node.call((b"SET", key, b"L" + b"\x01" * 16))
    assert "01" * 16 in client.get(url, {"alias": "default", "key": "k"}).content.decode()
    node.call((b"SET", key, b"\xff"))
    assert "unreadable" in client.get(url, {"alias": "default", "key": "k"}).content.decode()
    assert "valid choice" in client.get(url, {"alias": "x", "key": "k"}).content.decode()


def test_the_figures_of_a_key_are_shown(client: Client, url: str, ring_cache: RingCache) -> None:
    """Its age, the writers of a quarantine one by one, and each pending delete."""
    looked = {"alias": "default", "key": "k"}
    ring_cache.set("k", 1, 290)
    key = ring_cache.key_bytes("k")
    page = client.get(url, looked).content.decode()
    assert "<dt>Age</dt><dd>10 s, if it was stored with the alias&#x27; TIMEOUT of 300 s</dd>" in page
    assert "no pending delete" in page
    assert "<dt>Near cache of this process</dt><dd>off</dd>" in page
    write_row("default", {"default": {key}})
    OutboxRow.objects.update(is_intent=True)  # as an earlier release writes it
    write_row("default", {"default": {key, b"another"}})
    write_row("default", {"default": {b"another"}})
    ring_cache.client.nodes[ring_cache.client.ring.owner(key)].call(
        (b"SET", key, b"Q" + b"\x01" * 16 + b"\x02" * 16, b"PX", b"9900")
    )
    page = client.get(url, looked).content.decode()
    assert f"<dt>Token of writer 1</dt><dd><code>{'01' * 16}</code>" in page
    assert f"<dt>Token of writer 2</dt><dd><code>{'02' * 16}</code>" in page
    assert "<dt>Age</dt><dd>20 s</dd>" in page
    assert page.count("pending delete, since ") == 2
    assert page.count("written before a statement and stored for one minute") == 1


def test_a_copy_in_the_process_is_shown(client: Client, url: str, settings: Any) -> None:
    """The copy of the process that serves the page: it knows of no other."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"near": {"max_entries": 10, "max_age": 60.0}}
    settings.CACHES = {"default": block | {"OPTIONS": options}}
    cache = caches["default"]
    assert isinstance(cache, RingCache)
    cache.set("k", 1, 100)
    looked = {"alias": "default", "key": "k"}
    assert (
        "<dt>Near cache of this process</dt><dd>has no copy</dd>" in client.get(url, looked).content.decode()
    )
    while not cache.client.has_near_copy(cache.key_bytes("k")):  # until the tracking connection is open
        cache.get("k")
    assert (
        "<dt>Near cache of this process</dt><dd>has a copy</dd>" in client.get(url, looked).content.decode()
    )


def test_a_delete_is_confirmed_done_and_logged(
    client: Client, act: str, url: str, ring_cache: RingCache
) -> None:
    """Nothing is deleted before."""
    ring_cache.set("k", 1, 100)
    asked = {"action": "delete_key", "alias": "default", "target": "k"}
    page = client.post(act, asked).content.decode()
    assert "delete the key &#x27;k&#x27;" in page
    assert ring_cache.get("k") == 1
    done = client.post(act, asked | {"confirmed": "on"}, follow=True).content.decode()
    assert "Delete the key &#x27;k&#x27; of &#x27;default&#x27;: done." in done
    assert ring_cache.get("k") is None
    assert LogEntry.objects.get().change_message == "delete the key 'k' of 'default': done"


@pytest.mark.parametrize("version", [0, 3])
def test_a_version_of_a_key_is_deleted(client: Client, act: str, ring_cache: RingCache, version: int) -> None:
    """The version that was looked up, and no other; the confirmation form has it too."""
    ring_cache.set("k", 1, 100, version=version)
    ring_cache.set("k", 1, 100)
    asked = {"action": "delete_key", "alias": "default", "target": "k", "version": str(version)}
    assert f'name="version" value="{version}"' in client.post(act, asked).content.decode()
    client.post(act, asked | {"confirmed": "on"})
    assert (ring_cache.get("k", version=version), ring_cache.get("k")) == (None, 1)


def test_static_files_with_hashed_names_are_found(
    client: Client, url: str, ring_cache: RingCache, settings: Any, tmp_path: Path
) -> None:
    """The page names them only by ``{% static %}``, as ManifestStaticFilesStorage requires."""
    settings.STATIC_ROOT = tmp_path
    storage = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    settings.STORAGES = settings.STORAGES | {"staticfiles": {"BACKEND": storage}}
    call_command("collectstatic", interactive=False, verbosity=0)
    page = client.get(url).content.decode()
    for name in ("css", "js"):
        assert re.search(rf"static/cachebackend/ring\.[0-9a-f]{{12}}\.{name}", page)


HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


def test_the_forms_work_with_the_numbers_of_another_language(
    client: Client, url: str, act: str, ring_cache: RingCache, settings: Any
) -> None:
    """A thousands separator is for people: the forms send numbers as they read them."""
    settings.LANGUAGE_CODE, settings.USE_THOUSAND_SEPARATOR = "de", True
    ring_cache.set("k", "v", version=1_234_567)
    page = client.get(url, {"key": "k", "alias": "default", "version": "1234567"}).content.decode()
    assert re.findall(r'data-(?:refresh|value)="(\d+)"', page)
    form = page[page.index('value="delete_key"') - 40 :].partition("</form>")[0]
    question = client.post(act, dict(HIDDEN.findall(form))).content.decode()
    answer = client.post(act, dict(HIDDEN.findall(question)), follow=True).content.decode()
    assert "Delete the key &#x27;k&#x27; of &#x27;default&#x27;: done." in answer
    assert ring_cache.get("k", version=1_234_567) is None


@pytest.mark.ring_of_nodes
def test_a_tag_is_deleted_and_a_node_cleared(client: Client, act: str, ring_cache: RingCache) -> None:
    """A value misses whose tag was deleted: a text, a model or a row. The keys of other nodes stay."""
    assert ring_cache.get_or_set("k", lambda: 1, 100, tags=["t"]) == 1
    assert ring_cache.get_or_set("l", lambda: 1, 100, tags=[Article]) == 1
    assert ring_cache.get_or_set("m", lambda: 1, 100, tags=[Article(pk=7)]) == 1
    for tag in ("t", "demo.Article", "demo.Article:7"):
        client.post(act, {"action": "delete_tag", "alias": "default", "target": tag, "confirmed": "on"})
    assert ring_cache.get_many(["k", "l", "m"]) == {}
    ring_cache.set_many({f"k{n}": n for n in range(60)})
    client.post(act, {"action": "clear_node", "alias": "default", "target": "ring-a", "confirmed": "on"})
    left = ring_cache.get_many([f"k{n}" for n in range(60)])
    assert 0 < len(left) < 60
    names = {
        ring_cache.client.ring.names[ring_cache.client.ring.owner(ring_cache.key_bytes(k))] for k in left
    }
    assert names == {"ring-b", "ring-c"}


@pytest.mark.hangs
@pytest.mark.parametrize("action", ["delete_key", "delete_tag"])
@pytest.mark.ring_of_nodes
def test_a_delete_that_a_node_missed_is_said_to_be_pending(
    client: Client, act: str, ring_cache: RingCache, services: Services, action: str
) -> None:
    """It is not said to be done; the outbox has it."""
    key = ring_cache.key_bytes("k") if action == "delete_key" else ring_cache.tag_bytes("k")
    ring_cache.set("k", 1, 100)
    name = ring_cache.client.ring.names[ring_cache.client.ring.owner(key)]
    services.stop(name)
    try:
        asked = {"action": action, "alias": "default", "target": "k", "confirmed": "on"}
        page = client.post(act, asked, follow=True).content.decode()
    finally:
        services.resume(name)
    assert "its node does not answer; the delete is pending, and is sent when the node is back" in page
    assert "done" not in page
    assert "is pending" in LogEntry.objects.get().change_message
    assert any(key in keys_of_row(row)["default"] for row in stored_rows("default"))


@pytest.mark.hangs
@pytest.mark.ring_of_nodes
def test_a_node_that_was_not_cleared_is_an_error(
    client: Client, act: str, ring_cache: RingCache, services: Services
) -> None:
    """It is logged: the keys are deleted when the node is back."""
    services.stop("ring-a")
    try:
        asked = {"action": "clear_node", "alias": "default", "target": "ring-a", "confirmed": "on"}
        page = client.post(act, asked, follow=True).content.decode()
    finally:
        services.resume("ring-a")
    assert "node &#x27;ring-a&#x27; does not answer: 0 keys were deleted" in page
    assert "failed: node 'ring-a' does not answer" in LogEntry.objects.get().change_message


@pytest.mark.ring_of_nodes
def test_a_node_that_does_not_exist_is_refused(client: Client, act: str, ring_cache: RingCache) -> None:
    """The message names the nodes that exist; no confirmation is asked for."""
    asked = {"action": "clear_node", "alias": "default", "target": "no-such"}
    for confirmed in ({}, {"confirmed": "on"}):
        page = client.post(act, asked | confirmed, follow=True).content.decode()
        assert "has no node &#x27;no-such&#x27;; it has ring-a, ring-b, ring-c." in page
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("asked", [{}, {"action": "flush", "alias": "default", "target": "x"}])
def test_an_unknown_action_is_refused(client: Client, act: str, asked: dict[str, str]) -> None:
    """With a message."""
    assert "The page has no such action." in client.post(act, asked, follow=True).content.decode()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("delete_key", "The key is missing: enter the key."),
        ("delete_tag", "The tag is missing: enter the tag."),
        ("clear_node", "The node&#x27;s name is missing: enter the node&#x27;s name."),
    ],
)
def test_an_empty_target_is_refused(client: Client, act: str, action: str, message: str) -> None:
    """The message says what is missing."""
    asked = {"action": action, "alias": "default", "target": ""}
    assert message in client.post(act, asked, follow=True).content.decode()


def test_a_version_that_is_no_number_is_refused(client: Client, act: str) -> None:
    """The message names the version."""
    asked = {"action": "delete_key", "alias": "default", "target": "k", "version": "x"}
    page = client.post(act, asked, follow=True).content.decode()
    assert "The version is wrong: Enter a whole number." in page


@pytest.mark.ring_of_nodes
def test_the_fault_of_pending_deletes_names_the_dead_node(
    client: Client, url: str, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page does not ask whether every node is up."""
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    breaker = ring_cache.client.nodes[1].breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(created=timezone.now() - timedelta(minutes=1))
    record_run("relay")
    page = client.get(url).content.decode()
    assert "these nodes do not answer: ring-b." in page
    assert "is every node up" not in page


def test_a_viewer_changes_nothing(act: str, ring_cache: RingCache) -> None:
    """Neither does a request without the form's CSRF token."""
    ring_cache.set("k", 1, 100)
    asked = {"action": "delete_key", "alias": "default", "target": "k", "confirmed": "on"}
    assert staff("view_ring").post(act, asked).status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("root"))
    assert strict.post(act, asked).status_code == 403
    assert ring_cache.get("k") == 1


def test_a_project_without_a_ring_has_a_page(client: Client, url: str, settings: Any) -> None:
    """It says that there is no ring."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert "No alias of" in client.get(url).content.decode()


@pytest.mark.postgres
def test_a_partition_shows_its_bytes_and_why_it_is_not_drained(client: Client, url: str) -> None:
    """The reason is that of ``writebehind status``, with what to do about it."""
    with one_partition():
        Article.behind.update(1, views=7)
        ParkedWrite.objects.create(label="demo.article", partition=0, batch=1, key="1", changes=b"", error="")
        page = client.get(url).content.decode()
    [row] = re.findall(r'<tr id="partition-demo.article:0" data-key="demo.article:0@queue-a">.*?</tr>', page)
    assert re.search(r'data-label="Queued">1</td><td data-label="Bytes">\d+\xa0bytes</td>', row)
    assert "parked</a>: 1 write is parked; see `manage.py writebehind parked`" in row
    assert '<a href="/admin/cachebackend/parkedwrite/?label=demo.article">1</a>' in row
    assert re.search(r'<dd data-figure="waiting">1 \(\d+\xa0bytes\)</dd>', page)


def test_the_page_says_what_to_do_and_links_to_the_runbook(client: Client, url: str) -> None:
    """Each section of the runbook has the anchor to which a fault of its kind links."""
    page = client.get(url).content.decode()
    assert "Start a worker, <code>celery -A yourproject worker</code>, and beat, " in page
    assert f'<a href="{url}runbook/#no-worker">' in page
    runbook = client.get(f"{url}runbook/").content.decode()
    assert all(f'<section id="{kind}"' in runbook for kind in FaultKind)
    assert staff().get(f"{url}runbook/").status_code == 403


def test_a_parked_write_that_cannot_be_read_hides_no_other(client: Client) -> None:
    """Its model may have changed since, or be gone; the page counts it all the same."""
    for label, key in (("demo.article", "not a number"), ("shop.gone", "1")):
        ParkedWrite.objects.create(label=label, partition=0, batch=1, key=key, changes=b"", error="no")
    listed = client.get(reverse("admin:cachebackend_parkedwrite_changelist")).content.decode()
    assert "cannot be read: " in listed
    assert "the model no longer exists" in listed
    page = client.get(reverse("admin:cachebackend_ring_changelist")).content.decode()
    assert "2 writes are parked because Postgres refused them: shop.gone: no." in page


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
def test_the_list_of_parked_writes_names_other_databases(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page shows one database, in which a number means one write."""
    monkeypatch.setattr(writebehind, "databases", lambda: ["default", "lite"])
    where = reverse("admin:cachebackend_parkedwrite_changelist")
    assert "which this page does not show" not in client.get(where).content.decode()
    ParkedWrite.objects.using("lite").create(
        label="shop.gone", partition=0, batch=1, key="1", changes=b"", error="no"
    )
    page = client.get(where).content.decode()
    assert "1 writes are parked in the database &#x27;lite&#x27;, which this page does not show" in page


def test_parked_writes_are_listed_retried_and_discarded(client: Client) -> None:
    """Django's own action to delete them discards them."""
    for key in ("1", "2"):
        ParkedWrite.objects.create(
            label="shop.gone", partition=0, batch=1, key=key, changes=b"", error="<no>"
        )
    listed = client.get(reverse("admin:cachebackend_parkedwrite_changelist")).content.decode()
    assert "&lt;no&gt;" in listed
    assert "the model no longer exists" in listed
    pks = list(ParkedWrite.objects.values_list("pk", flat=True))
    asked = {"action": "retry", "_selected_action": pks}
    where = reverse("admin:cachebackend_parkedwrite_changelist")
    question = client.post(where, asked).content.decode()
    assert "retry 2 parked writes" in question
    assert question.count('name="_selected_action"') == 2
    assert not LogEntry.objects.exists()
    answer = client.post(where, asked | {"confirmed": "on"}, follow=True).content.decode()
    assert "0 writes were applied" in answer
    assert "&#x27;shop.gone&#x27; is not a model of this project" in answer
    assert LogEntry.objects.get().change_message == "retry 2 parked writes: 0 applied, 2 still parked"
    client.post(
        reverse("admin:cachebackend_parkedwrite_changelist"),
        {"action": "delete_selected", "_selected_action": pks[:1], "post": "yes"},
    )
    assert ParkedWrite.objects.count() == 1

"""The ring page: figures, permissions, what is shown of a key, and what it deletes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache
from cachebackend.admin.drawing import line_chart, ring_picture
from cachebackend.admin.figures import NodeFigures
from cachebackend.models import ParkedWrite
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


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


def staff(*permissions: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def test_the_page_says_that_all_is_well(client: Client, url: str, ring_cache: RingCache) -> None:
    """With each node, its share and its server."""
    page = client.get(url).content.decode()
    assert "All is well" in page
    assert page.count('class="arc up"') == 3
    assert all(f'data-node="{name}"' in page for name in ("ring-a", "ring-b", "ring-c"))


def test_it_stays_up_and_says_what_it_cannot_see(
    client: Client, url: str, ring_cache: RingCache, services: Services
) -> None:
    """Nodes and the queue may be away."""
    for name in ("ring-b", "queue-a"):
        services.kill(name)
    try:
        page = client.get(url).content.decode()
    finally:
        for name in ("ring-b", "queue-a"):
            services.restart(name)
    assert "Not well" in page
    assert "Node ring-b of &#x27;default&#x27; does not answer" in page
    assert "queue-a" in page
    assert page.count('class="arc up"') == 2


@pytest.mark.parametrize(("permissions", "code"), [((), 403), (("view_ring",), 200), (("change_ring",), 200)])
def test_who_may_look(url: str, permissions: tuple[str, ...], code: int) -> None:
    """Staff with the permission; nobody else gets anything."""
    assert staff(*permissions).get(url).status_code == code
    assert Client().get(url).status_code == 302


def test_a_key_is_shown_with_its_value_escaped(client: Client, url: str, ring_cache: RingCache) -> None:
    """Its owner, kind and size too."""
    ring_cache.set("<b>", {"a": "<script>x</script>"}, 100)
    page = client.get(url, {"alias": "default", "key": "<b>"}).content.decode()
    assert "<script>x" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "msgpack extended" in page


def test_a_viewer_sees_no_value(url: str, ring_cache: RingCache) -> None:
    """Only that there is one."""
    ring_cache.set("k", {"a": "secret-text"}, 100)
    page = staff("view_ring").get(url, {"alias": "default", "key": "k"}).content.decode()
    assert "secret-text" not in page
    assert "Delete the key" not in page
    assert "value, " in page


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


def test_a_pickle_is_never_loaded(client: Client, url: str, ring_cache: RingCache) -> None:
    """Whoever put it there."""
    key = ring_cache.key_bytes("k")
    node = ring_cache.client.nodes[ring_cache.client.ring.owner(key)]
    node.call((b"SET", key, b"Vp\0" + pickle.dumps(Bomb())))
    page = client.get(url, {"alias": "default", "key": "k"}).content.decode()
    assert "a pickle, which this page does not load" in page


def test_what_is_no_value_is_told_too(client: Client, url: str, ring_cache: RingCache) -> None:
    """Nothing, a lease, a broken record, an unknown alias."""
    assert "nothing" in client.get(url, {"alias": "default", "key": "k"}).content.decode()
    key = ring_cache.key_bytes("k")
    node = ring_cache.client.nodes[ring_cache.client.ring.owner(key)]
    node.call((b"SET", key, b"L" + b"\x01" * 16))
    assert "01" * 16 in client.get(url, {"alias": "default", "key": "k"}).content.decode()
    node.call((b"SET", key, b"\xff"))
    assert "unreadable" in client.get(url, {"alias": "default", "key": "k"}).content.decode()
    assert "valid choice" in client.get(url, {"alias": "x", "key": "k"}).content.decode()


def test_a_delete_is_asked_for_done_and_logged(
    client: Client, act: str, url: str, ring_cache: RingCache
) -> None:
    """Once it is confirmed."""
    ring_cache.set("k", 1, 100)
    asked = {"action": "delete_key", "alias": "default", "target": "k"}
    page = client.post(act, asked).content.decode()
    assert "delete the key &#x27;k&#x27;" in page
    assert ring_cache.get("k") == 1
    done = client.post(act, asked | {"confirmed": "on"}, follow=True).content.decode()
    assert "Done: delete the key" in done
    assert ring_cache.get("k") is None
    assert "delete the key" in LogEntry.objects.get().change_message


def test_a_tag_and_a_node_are_deleted_likewise(client: Client, act: str, ring_cache: RingCache) -> None:
    """What was loaded under the tag is loaded again; the node's entries are gone, the others' not."""
    assert ring_cache.get_or_set("k", lambda: 1, 100, tags=["t"]) == 1
    client.post(act, {"action": "delete_tag", "alias": "default", "target": "t", "confirmed": "on"})
    assert ring_cache.get("k") is None
    ring_cache.set_many({f"k{n}": n for n in range(60)})
    client.post(act, {"action": "clear_node", "alias": "default", "target": "ring-a", "confirmed": "on"})
    left = ring_cache.get_many([f"k{n}" for n in range(60)])
    assert 0 < len(left) < 60
    names = {
        ring_cache.client.ring.names[ring_cache.client.ring.owner(ring_cache.key_bytes(k))] for k in left
    }
    assert names == {"ring-b", "ring-c"}


@pytest.mark.parametrize("asked", [{}, {"action": "flush", "alias": "default", "target": "x"}])
def test_anything_else_does_nothing(client: Client, act: str, asked: dict[str, str]) -> None:
    """And says so."""
    assert "nothing the page can do" in client.post(act, asked, follow=True).content.decode()


def test_a_viewer_changes_nothing(act: str, ring_cache: RingCache) -> None:
    """Neither does anybody without a token of the form's."""
    ring_cache.set("k", 1, 100)
    asked = {"action": "delete_key", "alias": "default", "target": "k", "confirmed": "on"}
    assert staff("view_ring").post(act, asked).status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("root"))
    assert strict.post(act, asked).status_code == 403
    assert ring_cache.get("k") == 1


def test_parked_writes_are_listed_retried_and_discarded(client: Client) -> None:
    """To delete one is to discard it."""
    for key in ("1", "2"):
        ParkedWrite.objects.create(
            label="shop.gone", partition=0, batch=1, key=key, changes=b"", error="<no>"
        )
    listed = client.get(reverse("admin:cachebackend_parkedwrite_changelist")).content.decode()
    assert "&lt;no&gt;" in listed
    assert "of a model that is gone" in listed
    pks = list(ParkedWrite.objects.values_list("pk", flat=True))
    client.post(
        reverse("admin:cachebackend_parkedwrite_changelist"),
        {"action": "delete_selected", "_selected_action": pks[:1], "post": "yes"},
    )
    assert ParkedWrite.objects.count() == 1


# Pictures


def node(name: str, share: float, state: str = "up") -> NodeFigures:
    return NodeFigures(name, share, state, None, "", 0.1, {})


def test_a_large_ring_has_an_arc_for_each_node_and_no_crowd_of_names() -> None:
    """Fifty of them; the names are in their titles."""
    picture = ring_picture([node(f"n{n}", 1 / 50) for n in range(50)])
    assert picture.count("<path") == 50
    assert 'class="name"' not in picture
    assert "n49: up" in picture


def test_names_are_escaped() -> None:
    """They come from settings, but who knows."""
    assert "<i>" not in ring_picture([node("<i>", 1.0)])


def test_a_minute_without_a_value_is_a_gap() -> None:
    """Not a nought."""
    assert line_chart("x", [1, 2, None, 3, 4]).count("<polyline") == 2
    assert line_chart("x", [1, None, None]).count("<circle") == 1
    assert "<polyline" not in line_chart("x", [None, None])

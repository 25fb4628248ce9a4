"""A ring that is changed under traffic: processes of two adjacent deploys, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models.functions import Now
from django.test import override_settings

from cachebackend import RingCache, protocol
from cachebackend.client import RingClient
from cachebackend.effects import Load, Operation, Send
from cachebackend.errors import ConfigurationError, NodeUnavailableError
from cachebackend.invalidation import relay
from cachebackend.invalidation.outbox import new_row
from cachebackend.models import OutboxRow
from cachebackend.options import RingOptions
from cachebackend.protocol.ring import ring_change
from cachebackend.protocol.ring import write as write_module
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
ROWS = 60


def cache_of(location: Sequence[str], **options: Any) -> RingCache:
    block = settings.CACHES["default"]
    given = block.get("OPTIONS", {}) | options
    return RingCache(list(location), {**block, "OPTIONS": given})


@contextmanager
def four_deploys(old: Sequence[str], new: Sequence[str]) -> Iterator[dict[str, RingCache]]:
    """The deploys of a change, and the ring before and after it."""
    deploys = {
        "before": cache_of(old),
        "joining": cache_of(old, joining=new),
        "leaving": cache_of(new, leaving=old),
        "cold": cache_of(new, leaving=old, warm=False),
        "after": cache_of(new),
    }
    yield deploys
    for cache in deploys.values():
        cache.client.close()


@pytest.fixture
def deploys(services: Services) -> Iterator[dict[str, RingCache]]:
    """The four deploys of a ring that grows from two nodes to three."""
    with four_deploys(services.ring_urls[:2], services.ring_urls) as deploys:
        yield deploys


@pytest.fixture
def replaced(services: Services) -> Iterator[dict[str, RingCache]]:
    """The four deploys by which another server takes the place of one, under its name."""
    a, b, c = services.ring_urls
    with four_deploys([a, b], [c.replace("ring-c", "ring-a"), b]) as deploys:
        yield deploys


def moved(deploys: Mapping[str, RingCache]) -> list[str]:
    """Keys whose server is another after the change."""
    names = [f"k{n}" for n in range(ROWS)]
    return [n for n in names if owner(deploys["before"], n) != owner(deploys["after"], n)]


def owner(cache: RingCache, key: str) -> str:
    """The place of a key's owner."""
    client = cache.client
    return client.nodes[client.ring.owner(cache.key_bytes(key))].address.endpoint


ADJACENT = [
    ("before", "joining"),
    ("joining", "leaving"),
    ("leaving", "cold"),
    ("cold", "after"),
]


WAYS = ["delete", "delete_many", "touch", "set", "set_many", "get_or_set after delete", "clear"]


@pytest.mark.parametrize(("one", "other"), ADJACENT + [(b, a) for a, b in ADJACENT])
@pytest.mark.parametrize("way", WAYS)
def test_what_one_deploy_changes_the_next_never_reads_stale(
    deploys: dict[str, RingCache], one: str, other: str, way: str
) -> None:
    """Whichever writes: after it no process of either reads what was there before."""
    change_and_read(deploys, one, other, way)


@pytest.mark.parametrize(("one", "other"), ADJACENT + [(b, a) for a, b in ADJACENT])
def test_nor_does_it_when_a_node_is_replaced_under_its_name(
    replaced: dict[str, RingCache], one: str, other: str
) -> None:
    """The two servers are told apart by where they are."""
    for way in WAYS:
        change_and_read(replaced, one, other, way)


def change_and_read(deploys: dict[str, RingCache], one: str, other: str, way: str) -> None:
    """Have a process of the one deploy change what both hold; neither reads then what was before."""
    writer, reader = deploys[one], deploys[other]
    keys = moved(deploys)
    assert len(keys) > 5
    for cache in (writer, reader):
        cache.clear()
    for cache in (writer, reader):
        assert cache.get_or_set_many(keys, lambda names: dict.fromkeys(names, "old"), 100)
    changes: dict[str, Callable[[], Any]] = {
        "delete": lambda: [writer.delete(key) for key in keys],
        "delete_many": lambda: writer.delete_many(keys),
        "touch": lambda: [writer.touch(key, 0) for key in keys],
        "set": lambda: [writer.set(key, "new", 100) for key in keys],
        "set_many": lambda: writer.set_many(dict.fromkeys(keys, "new"), 100),
        "get_or_set after delete": lambda: [
            (writer.delete(key), writer.get_or_set(key, lambda: "new", 100)) for key in keys
        ],
        "clear": writer.clear,
    }
    changes[way]()
    for cache in (reader, writer):
        assert "old" not in {cache.get(key) for key in keys}
        assert "old" not in cache.get_many(keys).values()
        assert {cache.get_or_set(key, lambda: "new", 100) for key in keys} == {"new"}


@pytest.mark.parametrize("change", ["deploys", "replaced"])
def test_a_miss_is_warmed_from_the_ring_that_was_left(change: str, request: pytest.FixtureRequest) -> None:
    """The database is not asked; afterwards the new owner has it, for as long as the old one had."""
    deploys: dict[str, RingCache] = request.getfixturevalue(change)
    keys = moved(deploys)
    deploys["joining"].set_many(dict.fromkeys(keys, "there"), 100)
    leaving = deploys["leaving"]
    assert leaving.get_many(keys) == dict.fromkeys(keys, "there")

    def asked() -> Any:
        raise AssertionError

    assert {leaving.get_or_set(key, asked, 100) for key in keys} == {"there"}
    after = deploys["after"]
    assert after.get_many(keys) == dict.fromkeys(keys, "there")


@pytest.mark.parametrize(("name", "other"), [("joining", "after"), ("leaving", "before")])
def test_no_copy_outlives_a_value_that_was_touched(
    deploys: dict[str, RingCache], name: str, other: str
) -> None:
    """The other ring's is deleted; but a value that has not moved yet is not there to touch, and stays."""
    key, unmoved = moved(deploys)[:2]
    deploys[name].set(key, "v", None)
    deploys[other].set_many({key: "v", unmoved: "v"}, None)
    assert deploys[name].touch(key, 100) is True
    assert deploys[name].touch(unmoved, 100) is False
    assert deploys[other].get_many([key, unmoved]) == {unmoved: "v"}


@pytest.mark.parametrize("way", ["clear", "clear_all"])
def test_what_is_cleared_is_not_warmed(deploys: dict[str, RingCache], services: Services, way: str) -> None:
    """A node that is in the ring that was left alone is cleared, too."""
    keys = moved(deploys)
    deploys["after"].set_many(dict.fromkeys(keys, "old"), None)
    shrinking = cache_of(services.ring_urls[:2], leaving=services.ring_urls)
    assert shrinking.get_many(keys) == dict.fromkeys(keys, "old")
    getattr(shrinking, way)()
    assert shrinking.get_many(keys) == {}
    shrinking.client.close()


def test_a_set_that_fails_has_told_the_ring_that_is_entered(deploys: dict[str, RingCache]) -> None:
    """It may have been taken all the same; who reads at the new owner must not find what was before."""
    joining, key = deploys["joining"], moved(deploys)[0]
    deploys["after"].set(key, "old", None)
    cache = cache_of(
        [f"{node.url}?name={node.name}" for node in joining.client.context.options.nodes],
        joining=[f"{node.url}?name={node.name}" for node in joining.client.context.options.joining],
        on_node_failure="raise",
    )
    breaker = cache.client.nodes[cache.client.ring.owner(cache.key_bytes(key))].breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
    with pytest.raises(NodeUnavailableError):
        cache.set(key, "new", None)
    assert deploys["after"].get(key) is None
    cache.client.close()


def test_about_the_new_nodes_share_moves(deploys: dict[str, RingCache]) -> None:
    """And no other key."""
    keys = moved(deploys)
    assert {owner(deploys["after"], key) for key in keys} == {
        deploys["after"].client.nodes[2].address.endpoint
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"joining": ["redis://h:1?name=x"], "leaving": ["redis://h:2?name=y"]},
            "cannot be set together with",
        ),
        ({"joining": ["redis://h:1?name=b"]}, "has as 'b' the server that LOCATION has as 'a'"),
        ({"leaving": ["redis://h:1?name=a"]}, "no key would move"),
        (
            {"leaving": ["redis://:new@H/0?name=a&weight=1", "redis://h:6379?name=c"]},
            "is the same server and database as node 'a'",
        ),
        ({"leaving": ["nonsense"]}, r"\['leaving'\]"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], says: str) -> None:
    """When the settings are read."""
    with pytest.raises(ConfigurationError, match=says):
        RingOptions.read(["redis://h:1?name=a"], options, "CACHES['default']")


# Every interleaving of a writer of the one deploy and a reader of the other


class Stepped:
    """An operation that is stepped by hand, one effect at a time."""

    def __init__(self, client: RingClient, operation: Operation[Any]) -> None:
        self.client, self.operation, self.done = client, operation, False
        self.effect: Any = None
        self._send(None)

    def _send(self, outcome: Any) -> None:
        try:
            self.effect = self.operation.send(outcome)
        except StopIteration:
            self.done = True

    def step(self) -> None:
        match self.effect:
            case Send(requests):
                # Each command on its own: what one scatter holds may arrive in any order, this is one
                replies = self.client.run(_sent(requests))
                self._send(replies)
            case Load(loader):
                self._send(loader())
            case _:
                self._send(None)


def _sent(requests: Any) -> Operation[Any]:
    return (yield Send(requests))


def schedules(writer_first: int, reader_steps: int) -> Iterator[list[str]]:
    """Each order of so many steps of the one and of the other."""
    from itertools import combinations

    total = writer_first + reader_steps
    for places in combinations(range(total), writer_first):
        yield ["writer" if at in places else "reader" for at in range(total)]


def run_all(deploys: dict[str, RingCache], writer_of: str, reader_of: str) -> list[list[str]]:
    """Return the schedules after which the old value stands somewhere that is read."""
    key = moved(deploys)[0]
    writing, reading = deploys[writer_of], deploys[reader_of]
    made = writing.key_bytes(key)
    wrong = []
    for schedule in schedules(4, 7):
        for node in deploys["leaving"].client.nodes:
            node.call((b"DEL", made))
        deploys["before"].set(key, "old", 100)
        database = ["old"]
        keep = protocol.FillOptions(60_000)

        def load(database: list[str] = database) -> str:
            return database[0]

        def write(database: list[str] = database) -> Operation[Any]:
            database[0] = "new"
            return (yield from protocol.delete_many(writing.client.context, [made]))

        actors = {
            "writer": Stepped(writing.client, write()),
            "reader": Stepped(reading.client, protocol.get_or_load(reading.client.context, made, load, keep)),
        }
        for name in [*schedule, *["writer"] * 6, *["reader"] * 12]:
            if not actors[name].done:
                actors[name].step()
        if "old" in {cache.get(key) for cache in (writing, reading)}:
            wrong.append(schedule)
    return wrong


@pytest.mark.parametrize("change", ["deploys", "replaced"])
@pytest.mark.parametrize("writer", ["joining", "leaving"])
def test_no_order_of_a_delete_and_a_warm_read_leaves_the_old_value(
    change: str, writer: str, request: pytest.FixtureRequest
) -> None:
    """The ring being left is told first."""
    assert run_all(request.getfixturevalue(change), writer, "leaving") == []


def test_what_is_owed_to_a_server_is_not_told_to_the_other_of_its_name(
    replaced: dict[str, RingCache],
) -> None:
    """Whichever of them a process of either deploy calls so: rows tell them apart by where they are."""
    key, leaving = moved(replaced)[0], replaced["leaving"]
    entered = replaced["after"].client.nodes[0].endpoint
    replaced["before"].set(key, "old", None)
    replaced["after"].set(key, "new", None)
    options = leaving.client.context.options
    block = settings.CACHES["default"] | {
        "LOCATION": [node.setting for node in options.nodes],
        "OPTIONS": {"leaving": [node.setting for node in options.leaving]},
    }
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        new_row({"default": []}, node=entered).save()
        OutboxRow.objects.update(created=Now() - timedelta(minutes=1))
        assert relay().rows == 1
    assert replaced["after"].get(key) is None
    assert replaced["before"].get(key) == "old"


def test_errors_tell_two_servers_of_one_name_apart(replaced: dict[str, RingCache]) -> None:
    """As the one that is joining, or leaving."""
    names = [[node.name for node in replaced[at].client.nodes] for at in ("joining", "leaving")]
    assert names == [["ring-a", "ring-b", "ring-a (joining)"], ["ring-a", "ring-b", "ring-a (leaving)"]]


def test_both_rings_at_once_would_be_wrong(
    deploys: dict[str, RingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: told in the other order, a schedule leaves the old value."""
    context = deploys["leaving"].client.context
    assert context.ring_change is not None
    delete_in_old_ring = ring_change.delete_in_old_ring

    def nothing(*_: Any, **__: Any) -> Operation[list[bytes]]:
        return []
        yield

    def late(context: Any, keys: Any, **named: Any) -> Operation[list[bytes]]:
        return (yield from delete_in_old_ring(context, keys, **named))

    monkeypatch.setattr(write_module, "delete_in_old_ring", nothing)
    monkeypatch.setattr(write_module, "delete_in_new_ring", late)
    assert run_all(deploys, "leaving", "leaving")


def test_only_the_present_owner_would_be_wrong(
    deploys: dict[str, RingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: the other ring is told nothing."""

    def nothing(*_: Any, **__: Any) -> Operation[list[bytes]]:
        return []
        yield

    monkeypatch.setattr(write_module, "delete_in_old_ring", nothing)
    assert run_all(deploys, "leaving", "leaving")


def test_without_the_third_deploy_it_would_be_wrong(deploys: dict[str, RingCache]) -> None:
    """Who no longer tells the old owner leaves there what a process that warms reads."""
    key = moved(deploys)[0]
    deploys["before"].set(key, "old", 100)
    deploys["after"].delete(key)
    assert deploys["leaving"].get(key) == "old"
    assert deploys["cold"].get(key) is None


def test_warming_without_the_lease_would_be_wrong(
    deploys: dict[str, RingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: what was read at the old owner is put at the new one whatever stands there."""
    from cachebackend.protocol.cache import compare_and_set

    def plainly(self: compare_and_set.CompareAndSet, _: Any) -> Any:
        return self.node, (b"SET", self.key, self.new, b"PX", max(self.ttl_ms, 1000))

    monkeypatch.setattr(compare_and_set.CompareAndSet, "request", plainly)
    assert run_all(deploys, "leaving", "leaving")

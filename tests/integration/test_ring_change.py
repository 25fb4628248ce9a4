"""A ring that changes under traffic: processes of two adjacent deploys run side by side."""

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
    pytest.mark.ring_of_nodes,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
ROWS = 60


def cache_of(location: Sequence[str], **options: Any) -> RingCache:
    """Return a cache of the default alias with other nodes and options."""
    block = settings.CACHES["default"]
    merged = block.get("OPTIONS", {}) | options
    return RingCache(list(location), {**block, "OPTIONS": merged})


@contextmanager
def four_deploys(old: Sequence[str], new: Sequence[str]) -> Iterator[dict[str, RingCache]]:
    """Yield a cache for each deploy of a change, and for the ring before and after it."""
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
    """The four deploys that replace one server by another of the same name."""
    a, b, c = services.ring_urls
    with four_deploys([a, b], [c.replace("ring-c", "ring-a"), b]) as deploys:
        yield deploys


def moved(deploys: Mapping[str, RingCache]) -> list[str]:
    """Return the keys that have another owner after the change."""
    names = [f"k{n}" for n in range(ROWS)]
    return [n for n in names if owner(deploys["before"], n) != owner(deploys["after"], n)]


def owner(cache: RingCache, key: str) -> str:
    """Return the endpoint of a key's owner."""
    client = cache.client
    return client.nodes[client.ring.owner(cache.key_bytes(key))].address.endpoint


ADJACENT = [
    ("before", "joining"),
    ("joining", "leaving"),
    ("leaving", "cold"),
    ("cold", "after"),
]


WAYS = ["delete", "delete_many", "touch", "set", "set_many", "get_or_set after delete", "clear"]


@pytest.mark.parametrize(("writer", "reader"), ADJACENT + [(b, a) for a, b in ADJACENT])
@pytest.mark.parametrize("way", WAYS)
def test_a_change_by_one_deploy_is_never_read_stale_by_the_next(
    deploys: dict[str, RingCache], writer: str, reader: str, way: str
) -> None:
    """After a write by either deploy, no process of the two reads the old value."""
    change_and_read(deploys, writer, reader, way)


@pytest.mark.parametrize(("writer", "reader"), ADJACENT + [(b, a) for a, b in ADJACENT])
def test_a_change_is_never_read_stale_while_a_server_is_replaced_under_its_name(
    replaced: dict[str, RingCache], writer: str, reader: str
) -> None:
    """The two servers are distinguished by their endpoints."""
    for way in WAYS:
        change_and_read(replaced, writer, reader, way)


def change_and_read(deploys: dict[str, RingCache], writer: str, reader: str, way: str) -> None:
    """Change cached keys in a process of one deploy; then no process of the two reads the old value."""
    writing, reading = deploys[writer], deploys[reader]
    keys = moved(deploys)
    assert len(keys) > 5
    for cache in (writing, reading):
        cache.clear()
    for cache in (writing, reading):
        assert cache.get_or_set_many(keys, lambda names: dict.fromkeys(names, "old"), 100)
    changes: dict[str, Callable[[], Any]] = {
        "delete": lambda: [writing.delete(key) for key in keys],
        "delete_many": lambda: writing.delete_many(keys),
        "touch": lambda: [writing.touch(key, 0) for key in keys],
        "set": lambda: [writing.set(key, "new", 100) for key in keys],
        "set_many": lambda: writing.set_many(dict.fromkeys(keys, "new"), 100),
        "get_or_set after delete": lambda: [
            (writing.delete(key), writing.get_or_set(key, lambda: "new", 100)) for key in keys
        ],
        "clear": writing.clear,
    }
    changes[way]()
    for cache in (reading, writing):
        assert "old" not in {cache.get(key) for key in keys}
        assert "old" not in cache.get_many(keys).values()
        assert {cache.get_or_set(key, lambda: "new", 100) for key in keys} == {"new"}


@pytest.mark.parametrize("change", ["deploys", "replaced"])
def test_a_miss_is_warmed_from_the_old_ring(change: str, request: pytest.FixtureRequest) -> None:
    """The loader does not run; afterwards the new owner has the value, with the same time to live."""
    deploys: dict[str, RingCache] = request.getfixturevalue(change)
    keys = moved(deploys)
    deploys["joining"].set_many(dict.fromkeys(keys, "warm"), 100)
    leaving = deploys["leaving"]
    assert leaving.get_many(keys) == dict.fromkeys(keys, "warm")

    def must_not_run() -> Any:
        raise AssertionError

    assert {leaving.get_or_set(key, must_not_run, 100) for key in keys} == {"warm"}
    after = deploys["after"]
    assert after.get_many(keys) == dict.fromkeys(keys, "warm")


@pytest.mark.parametrize(("deploy", "other_ring"), [("joining", "after"), ("leaving", "before")])
def test_touch_deletes_the_value_in_the_other_ring(
    deploys: dict[str, RingCache], deploy: str, other_ring: str
) -> None:
    """A value that only the other ring has cannot be touched, and stays."""
    key, unmoved = moved(deploys)[:2]
    deploys[deploy].set(key, "v", None)
    deploys[other_ring].set_many({key: "v", unmoved: "v"}, None)
    assert deploys[deploy].touch(key, 100) is True
    assert deploys[deploy].touch(unmoved, 100) is False
    assert deploys[other_ring].get_many([key, unmoved]) == {unmoved: "v"}


@pytest.mark.parametrize("way", ["clear", "clear_all"])
def test_cleared_values_are_not_warmed(deploys: dict[str, RingCache], services: Services, way: str) -> None:
    """Nodes that are only in the old ring are cleared, too."""
    keys = moved(deploys)
    deploys["after"].set_many(dict.fromkeys(keys, "old"), None)
    shrinking = cache_of(services.ring_urls[:2], leaving=services.ring_urls)
    assert shrinking.get_many(keys) == dict.fromkeys(keys, "old")
    getattr(shrinking, way)()
    assert shrinking.get_many(keys) == {}
    shrinking.client.close()


def test_a_set_that_fails_deletes_in_the_new_ring(deploys: dict[str, RingCache]) -> None:
    """The node may have stored it; a read at the new owner must not return the value from before."""
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


def test_only_keys_of_the_new_node_move(deploys: dict[str, RingCache]) -> None:
    """Every key that moves is owned by the new node."""
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
def test_invalid_ring_changes_are_refused(options: dict[str, Any], says: str) -> None:
    """When the settings are read."""
    with pytest.raises(ConfigurationError, match=says):
        RingOptions.read(["redis://h:1?name=a"], options, "CACHES['default']")


# Every interleaving of a writer of one deploy and a reader of another


class Stepped:
    """An operation that is stepped one effect at a time."""

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
                # The commands of one scatter may arrive in any order; these arrive in the order given
                replies = self.client.run(_sent(requests))
                self._send(replies)
            case Load(loader):
                self._send(loader())
            case _:
                self._send(None)


def _sent(requests: Any) -> Operation[Any]:
    return (yield Send(requests))


def schedules(writer_steps: int, reader_steps: int) -> Iterator[list[str]]:
    """Yield each order of ``writer_steps`` and ``reader_steps`` steps."""
    from itertools import combinations

    total = writer_steps + reader_steps
    for writer_turns in combinations(range(total), writer_steps):
        yield ["writer" if turn in writer_turns else "reader" for turn in range(total)]


def run_all(deploys: dict[str, RingCache], writer: str, reader: str) -> list[list[str]]:
    """Return the schedules after which one of the two deploys still reads the old value."""
    key = moved(deploys)[0]
    writing, reading = deploys[writer], deploys[reader]
    key_bytes = writing.key_bytes(key)
    wrong = []
    for schedule in schedules(4, 7):
        for node in deploys["leaving"].client.nodes:
            node.call((b"DEL", key_bytes))
        deploys["before"].set(key, "old", 100)
        database = ["old"]
        fill_options = protocol.FillOptions(60_000)

        def load(database: list[str] = database) -> str:
            return database[0]

        def write(database: list[str] = database) -> Operation[Any]:
            database[0] = "new"
            return (yield from protocol.delete_many(writing.client.context, [key_bytes]))

        actors = {
            "writer": Stepped(writing.client, write()),
            "reader": Stepped(
                reading.client, protocol.get_or_load(reading.client.context, key_bytes, load, fill_options)
            ),
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
    """The delete in the old ring comes first."""
    assert run_all(request.getfixturevalue(change), writer, "leaving") == []


def test_a_missed_delete_is_not_replayed_to_another_server_of_the_same_name(
    replaced: dict[str, RingCache],
) -> None:
    """Outbox rows name a server by its endpoint, because two deploys may give its name to another server."""
    key, leaving = moved(replaced)[0], replaced["leaving"]
    new_endpoint = replaced["after"].client.nodes[0].endpoint
    replaced["before"].set(key, "old", None)
    replaced["after"].set(key, "new", None)
    options = leaving.client.context.options
    block = settings.CACHES["default"] | {
        "LOCATION": [f"{node.url}?name={node.name}" for node in options.nodes],
        "OPTIONS": {"leaving": [f"{node.url}?name={node.name}" for node in options.leaving]},
    }
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        new_row({"default": []}, node=new_endpoint).save()
        OutboxRow.objects.update(created=Now() - timedelta(minutes=1))
        assert relay().rows == 1
    assert replaced["after"].get(key) is None
    assert replaced["before"].get(key) == "old"


def test_errors_distinguish_two_servers_of_the_same_name(replaced: dict[str, RingCache]) -> None:
    """The name of the other ring's server is followed by ``joining`` or ``leaving``."""
    names = [[node.name for node in replaced[deploy].client.nodes] for deploy in ("joining", "leaving")]
    assert names == [["ring-a", "ring-b", "ring-a (joining)"], ["ring-a", "ring-b", "ring-a (leaving)"]]


def test_a_delete_in_the_new_ring_first_would_be_wrong(
    deploys: dict[str, RingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: with the deletes in the other order, a schedule leaves the old value."""
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


def test_a_delete_at_the_current_owner_only_would_be_wrong(
    deploys: dict[str, RingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: the other ring does not receive the delete."""

    def nothing(*_: Any, **__: Any) -> Operation[list[bytes]]:
        return []
        yield

    monkeypatch.setattr(write_module, "delete_in_old_ring", nothing)
    assert run_all(deploys, "leaving", "leaving")


def test_without_the_third_deploy_it_would_be_wrong(deploys: dict[str, RingCache]) -> None:
    """A process that does not delete at the old owner leaves a value that another process warms from."""
    key = moved(deploys)[0]
    deploys["before"].set(key, "old", 100)
    deploys["after"].delete(key)
    assert deploys["leaving"].get(key) == "old"
    assert deploys["cold"].get(key) is None


def test_warming_without_the_lease_would_be_wrong(
    deploys: dict[str, RingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: the value of the old owner is set at the new owner without comparing."""
    from cachebackend.protocol.cache import compare_and_set

    def plain_set(self: compare_and_set.CompareAndSet, _: Any) -> Any:
        return self.node, (b"SET", self.key, self.new, b"PX", b"%d" % max(self.ttl_ms, 1000))

    monkeypatch.setattr(compare_and_set.CompareAndSet, "request", plain_set)
    assert run_all(deploys, "leaving", "leaving")

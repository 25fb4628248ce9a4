"""The client's own methods for one key have the same results as the generators of ``protocol``.

The explorer and the mutants step the generators. These tests run both for every kind of record,
every loader and every timeout, and compare the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache, drivers, protocol
from cachebackend.client import single
from cachebackend.clock import SystemClock
from cachebackend.codec import Kind, Refresh, kind_of, lease_record
from cachebackend.counters import Counts
from cachebackend.errors import RingCacheError
from cachebackend.near import MISS
from cacheproject.services import Services

KEY = b":1:k"
#: Counters of durations, which differ from run to run.
TIMES = {"get_times", "load_times"}
PAST, FUTURE = 1.0, 4e9


@dataclass
class Outcome:
    """The result of a call.

    Attributes:
        returned: The returned value.
        raised: The type of the raised error.
        remaining: The kind of the record that is stored afterwards, or its bytes if it is not a record.
        counts: The counters that the call changed, and by how much.
        loads: How many times the loader ran.
    """

    returned: Any
    raised: type[BaseException] | None
    remaining: Kind | bytes | None
    counts: dict[str, int]
    loads: int


class SkippingClock(SystemClock):
    """The machine's clock; ``sleep`` sets it forward instead of waiting."""

    skipped = 0.0

    def monotonic(self) -> float:  # type: ignore[override]  # a method, to be called on the object
        return time.monotonic() + self.skipped

    def sleep(self, seconds: float) -> None:
        self.skipped += seconds


@pytest.fixture(params=["auto", "script"])
def cache(request: pytest.FixtureRequest, empty_nodes: None, monkeypatch: pytest.MonkeyPatch) -> RingCache:
    """The alias on a clock of its own: leases do not expire, and waiting for another lease takes no time."""
    options = {"fill": request.param, "lease_timeout": 5.0, "early_refresh_beta": 1.0}
    cache = RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": options})
    clock = SkippingClock()
    monkeypatch.setattr(cache.client.context, "clock", clock)
    monkeypatch.setattr(drivers, "time", clock)
    return cache


RECORDS: dict[str, Callable[[RingCache], bytes | None]] = {
    "nothing": lambda _: None,
    "a value": lambda cache: cache.client.context.codec.encode("cached", b""),
    "a fresh value": lambda cache: cache.client.context.codec.encode("cached", b"", Refresh(FUTURE, 0.0)),
    "a stale value": lambda cache: cache.client.context.codec.encode("cached", b"", Refresh(PAST, 1.0)),
    "a claimed value": lambda cache: cache.client.context.codec.encode(
        "cached", b"", Refresh(PAST, 1.0, b"t" * 16, FUTURE)
    ),
    "an integer": lambda _: b"17",
    "a lease of another reader": lambda _: lease_record(b"x" * 16),
    "a quarantine": lambda _: b"Q" + b"x" * 16,
    "bytes that are not a record": lambda _: b"?",
    "a value cut short": lambda _: b"Vm\x00\xc1",
    "a list": lambda _: None,
}
FILL_OPTIONS = {
    "one minute": protocol.FillOptions(60_000),
    "without a timeout": protocol.FillOptions(None),
    "a timeout of zero": protocol.FillOptions(0),
    "one minute, then stale for one minute": protocol.FillOptions(60_000, 60_000),
}


def fails() -> Any:
    message = "the loader"
    raise LookupError(message)


LOADERS: dict[str, Callable[[], Any]] = {
    "a value": lambda: {"loaded": 1},
    "an integer": lambda: 5,
    "nothing": lambda: protocol.MISSING,
    "a value that cannot be encoded": lambda: fails,  # a function of a test: pickle refuses a lambda
    "an error": fails,
}


def outcome(
    cache: RingCache, record_name: str, call: Callable[[Callable[..., Any]], Any], load: Any
) -> Outcome:
    """Store a record under the key, make the call, and return its result."""
    node = cache.client.nodes[cache.client.ring.owner(KEY)]
    node.call((b"DEL", KEY))
    if record_name == "a list":
        node.call((b"RPUSH", KEY, b"x"))
    elif (record := RECORDS[record_name](cache)) is not None:
        node.call((b"SET", KEY, record, b"PX", b"60000"))
    before, calls = cache.client.counters.total(), []

    def loader() -> Any:
        calls.append(1)
        return load()

    returned, raised = None, None
    try:
        returned = call(loader)
    except Exception as error:  # noqa: BLE001  # the other way must raise the same error, of any type
        raised = type(error)
    remaining = node.call((b"GET", KEY))
    if isinstance(remaining, RingCacheError):
        remaining = str(remaining).encode()
    elif remaining is not None and remaining[:1] in b"VSLQ":
        remaining = kind_of(remaining)
    after = cache.client.counters.total()
    counts = {
        name: getattr(after, name) - getattr(before, name)
        for name in Counts.__dataclass_fields__
        if name not in TIMES
    }
    return Outcome(returned, raised, remaining, counts, len(calls))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("record_name", RECORDS)
def test_get_or_load_has_the_same_result_both_ways(cache: RingCache, record_name: str, load: str) -> None:
    """The same value or error, the same record afterwards, the same counts; also if the key is read first."""
    client, loads = cache.client, LOADERS[load]
    for fill_options, hits in product(FILL_OPTIONS.values(), (set[bytes](), {KEY})):
        client._hits = {*hits}
        direct = outcome(
            cache, record_name, lambda loader, o=fill_options: client.get_or_load(KEY, loader, o), loads
        )
        stepped = outcome(
            cache,
            record_name,
            lambda loader, o=fill_options: client.run(protocol.get_or_load(client.context, KEY, loader, o)),
            loads,
        )
        assert direct == stepped


class RaisesStopIteration:
    """An object that pickle cannot load: loading it raises StopIteration, which also ends a loop."""

    def __reduce__(self) -> Any:
        return next, (iter([]),)


def test_get_many_returns_what_get_returns_for_each_key(cache: RingCache) -> None:
    """Next to every other kind of record: values of two codecs, none, leases, bytes that are not a record."""
    encode = cache.client.context.codec.encode
    plain: list[Any] = [encode({"n": n}, b"") for n in range(30)]
    odd = [make(cache) for name, make in RECORDS.items() if name not in {"nothing", "a list"}]
    odd += [
        encode({1, (2, 3)}, b""),
        encode(LookupError("pickled"), b""),
        encode(RaisesStopIteration(), b""),
        b"",
        b"5",
        None,
    ]
    for records in (plain, odd, *([*plain, one] for one in odd), [*plain, *odd]):
        cache.clear()
        for number, record in enumerate(records):
            key = cache.key_bytes(f"k{number}")
            if record is not None:
                cache.client.nodes[cache.client.ring.owner(key)].call((b"SET", key, record))
        names = [f"k{number}" for number in range(len(records))]
        alone = {name: cache.get(name, MISS) for name in names}
        values = cache.get_many(names)
        assert list(values) == [name for name in names if alone[name] is not MISS]
        assert {name: str(value) for name, value in values.items()} == {
            name: str(value) for name, value in alone.items() if value is not MISS
        }


@pytest.mark.parametrize("record_name", RECORDS)
def test_delete_has_the_same_result_both_ways(cache: RingCache, record_name: str) -> None:
    """Every record except a quarantine is deleted; also by a node that has not cached the script."""
    client = cache.client
    node = client.nodes[client.ring.owner(KEY)]
    node.call((b"SCRIPT", b"FLUSH"))
    direct = outcome(cache, record_name, lambda _: client.delete(KEY), None)
    cached_script = outcome(cache, record_name, lambda _: client.delete(KEY), None)
    stepped = outcome(cache, record_name, lambda _: client.run(protocol.delete(client.context, KEY)), None)
    assert direct == cached_script == stepped
    assert (direct.remaining is None) == (record_name != "a quarantine")


@pytest.mark.parametrize("how", ["miss", "raise"])
@pytest.mark.ring_of_nodes
def test_a_node_that_is_down_has_the_same_result_both_ways(
    services: Services, empty_nodes: None, how: str
) -> None:
    """A load without a lease, or the node's error; the delete is recorded as missed."""
    cache = RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"on_node_failure": how}})
    client, fill_options = cache.client, FILL_OPTIONS["one minute"]
    owner = client.ring.owner(KEY)
    calls: dict[str, list[Callable[[], Any]]] = {
        "load": [
            lambda: client.get_or_load(KEY, lambda: "loaded", fill_options),
            lambda: client.run(protocol.get_or_load(client.context, KEY, lambda: "loaded", fill_options)),
        ],
        "delete": [
            lambda: client.delete(KEY),
            lambda: client.run(protocol.delete(client.context, KEY)),
        ],
    }
    services.kill(client.nodes[owner].name)
    try:
        for direct, stepped in calls.values():
            assert result_of(direct) == result_of(stepped)
        assert client.context.missed.has_missed(owner, KEY)
    finally:
        services.restart(client.nodes[owner].name)


def result_of(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the type of its error."""
    try:
        return call()
    except RingCacheError as error:
        return type(error)


def test_a_fill_that_was_overtaken_is_counted(cache: RingCache) -> None:
    """And its value is not cached."""
    client = cache.client
    assert (
        client.get_or_load(
            KEY, lambda: "old" if client.delete(KEY) else None, FILL_OPTIONS["without a timeout"]
        )
        == "old"
    )
    assert client.counters.total().stale_sets_refused == 1
    assert client.get(KEY) is None


def test_a_key_that_had_a_value_is_read_without_a_lease(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease is asked for when the value is gone, and by the next read of a key that was loaded."""
    asked: list[bytes] = []
    begin_lease = single.begin_lease
    monkeypatch.setattr(
        single, "begin_lease", lambda context, key: (asked.append(key), begin_lease(context, key))[1]
    )
    monkeypatch.setattr(single, "MAX_HITS", 1)
    fill_options = FILL_OPTIONS["one minute"]

    def asks(key: bytes) -> bool:
        asked.clear()
        assert cache.client.get_or_load(key, lambda: "loaded", fill_options) == "loaded"
        return bool(asked)

    assert [asks(KEY) for _ in range(4)] == [True, True, False, False]
    cache.client.delete(KEY)
    assert [asks(KEY) for _ in range(3)] == [True, True, False]
    assert [asks(b":1:other") for _ in range(3)] == [True, True, False]
    assert asks(KEY)  # only one key is known


def test_a_long_key_is_not_remembered(cache: RingCache) -> None:
    """Ten thousand of them would take too much memory."""
    for _ in range(3):
        cache.client.get_or_load(b"k" * 501, lambda: "loaded", FILL_OPTIONS["one minute"])
    assert cache.client._hits == set()


def test_an_interrupted_load_releases_its_lease(cache: RingCache) -> None:
    """Other readers need not wait until the lease expires."""

    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.client.get_or_load(KEY, interrupted, FILL_OPTIONS["one minute"])
    assert cache.client.nodes[cache.client.ring.owner(KEY)].call((b"GET", KEY)) is None

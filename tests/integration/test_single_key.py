"""What one command and one reply settle, without a generator, and with it: always the same.

The generators of ``protocol`` are what the explorer and the mutants step; here the client's own
ways for one key are held against them, whatever stands and whatever the loader does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache, drivers, protocol
from cachebackend.clock import SystemClock
from cachebackend.codec import Kind, Refresh, kind_of, lease_record
from cachebackend.counters import Counts
from cachebackend.errors import RingCacheError
from cachebackend.near import MISS
from cacheproject.services import Services

KEY = b":1:k"
#: Times differ from run to run.
TIMES = {"get_times", "load_times"}
PAST, FUTURE = 1.0, 4e9


@dataclass
class Outcome:
    """What a call came to."""

    returned: Any
    raised: type[BaseException] | None
    left: Kind | bytes | None
    counts: dict[str, int]
    loads: int


class SkippingClock(SystemClock):
    """The machine's clock, which a wait moves on instead of waiting."""

    skipped = 0.0

    def monotonic(self) -> float:  # type: ignore[override]  # a method, to be called on the object
        return time.monotonic() + self.skipped

    def sleep(self, seconds: float) -> None:
        self.skipped += seconds


@pytest.fixture(params=["auto", "script"])
def cache(request: pytest.FixtureRequest, empty_nodes: None, monkeypatch: pytest.MonkeyPatch) -> RingCache:
    """The alias on a clock of its own: leases last, and nobody waits for another's to lapse."""
    options = {"fill": request.param, "lease_timeout": 5.0, "early_refresh_beta": 1.0}
    cache = RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": options})
    clock = SkippingClock()
    monkeypatch.setattr(cache.client.context, "clock", clock)
    monkeypatch.setattr(drivers, "time", clock)
    return cache


STANDING: dict[str, Callable[[RingCache], bytes | None]] = {
    "nothing": lambda _: None,
    "a value": lambda cache: cache.client.context.codec.encode("stands"),
    "a fresh value": lambda cache: cache.client.context.codec.encode("stands", Refresh(FUTURE, 0.0)),
    "a value past its time": lambda cache: cache.client.context.codec.encode("stands", Refresh(PAST, 1.0)),
    "a claimed value": lambda cache: cache.client.context.codec.encode(
        "stands", Refresh(PAST, 1.0, b"t" * 16, FUTURE)
    ),
    "an integer": lambda _: b"17",
    "another's lease": lambda _: lease_record(b"x" * 16),
    "a quarantine": lambda _: b"Q" + b"x" * 16,
    "bytes that are no record": lambda _: b"?",
    "a value cut short": lambda _: b"Vm\x00\xc1",
    "a list": lambda _: None,
}
KEEPS = {
    "for a while": protocol.FillOptions(60_000),
    "for ever": protocol.FillOptions(None),
    "not at all": protocol.FillOptions(0),
    "stale for a while": protocol.FillOptions(60_000, 60_000),
}


def fails() -> Any:
    message = "the loader"
    raise LookupError(message)


LOADERS: dict[str, Callable[[], Any]] = {
    "a value": lambda: {"loaded": 1},
    "an integer": lambda: 5,
    "nothing": lambda: protocol.MISSING,
    "what cannot be kept": lambda: fails,  # a function of a test: pickle refuses a lambda
    "an error": fails,
}


def outcome(cache: RingCache, standing: str, call: Callable[[Callable[..., Any]], Any], load: Any) -> Outcome:
    """Put something in the key's place, call, and tell what came of it."""
    node = cache.client.nodes[cache.client.ring.owner(KEY)]
    node.call((b"DEL", KEY))
    if standing == "a list":
        node.call((b"RPUSH", KEY, b"x"))
    elif (record := STANDING[standing](cache)) is not None:
        node.call((b"SET", KEY, record, b"PX", 60_000))
    before, calls = cache.client.counters.total(), []

    def loader() -> Any:
        calls.append(1)
        return load()

    returned, raised = None, None
    try:
        returned = call(loader)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other must raise it too
        raised = type(error)
    left = node.call((b"GET", KEY))
    if isinstance(left, RingCacheError):
        left = str(left).encode()
    elif left is not None and left[:1] in b"VSLQ":
        left = kind_of(left)
    after = cache.client.counters.total()
    counts = {
        name: getattr(after, name) - getattr(before, name)
        for name in Counts.__dataclass_fields__
        if name not in TIMES
    }
    return Outcome(returned, raised, left, counts, len(calls))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("standing", STANDING)
def test_a_load_is_the_same(cache: RingCache, standing: str, load: str) -> None:
    """What is returned or raised, what stands then, and what is counted."""
    client, loads = cache.client, LOADERS[load]
    for keep in KEEPS.values():
        direct = outcome(cache, standing, lambda loader, k=keep: client.get_or_load(KEY, loader, k), loads)
        stepped = outcome(
            cache,
            standing,
            lambda loader, k=keep: client.run(protocol.get_or_load(client.context, KEY, loader, k)),
            loads,
        )
        assert direct == stepped


class EndsItsOwnLoading:
    """What pickle cannot load, and tells so by what ends a loop."""

    def __reduce__(self) -> Any:
        return next, (iter([]),)


def test_many_are_read_as_each_alone(cache: RingCache) -> None:
    """Whatever stands beside them on their nodes: values of two codecs, none, leases, what is no record."""
    encode = cache.client.context.codec.encode
    plain: list[Any] = [encode({"n": n}) for n in range(30)]
    odd = [make(cache) for name, make in STANDING.items() if name not in {"nothing", "a list"}]
    odd += [encode({1, (2, 3)}), encode(LookupError("pickled")), encode(EndsItsOwnLoading()), b"", b"5", None]
    for records in (plain, odd, *([*plain, one] for one in odd), [*plain, *odd]):
        cache.clear()
        for number, record in enumerate(records):
            key = cache.key_bytes(f"k{number}")
            if record is not None:
                cache.client.nodes[cache.client.ring.owner(key)].call((b"SET", key, record))
        names = [f"k{number}" for number in range(len(records))]
        alone = {name: cache.get(name, MISS) for name in names}
        found = cache.get_many(names)
        assert list(found) == [name for name in names if alone[name] is not MISS]
        assert {name: str(value) for name, value in found.items()} == {
            name: str(value) for name, value in alone.items() if value is not MISS
        }


@pytest.mark.parametrize("standing", STANDING)
def test_a_delete_is_the_same(cache: RingCache, standing: str) -> None:
    """Quarantines stay, and all else goes; also on a node that knows no script yet."""
    client = cache.client
    node = client.nodes[client.ring.owner(KEY)]
    node.call((b"SCRIPT", b"FLUSH"))
    direct = outcome(cache, standing, lambda _: client.delete(KEY), None)
    known = outcome(cache, standing, lambda _: client.delete(KEY), None)
    stepped = outcome(cache, standing, lambda _: client.run(protocol.delete(client.context, KEY)), None)
    assert direct == known == stepped
    assert (direct.left is None) == (standing != "a quarantine")


@pytest.mark.parametrize("how", ["miss", "raise"])
def test_with_its_node_away_it_is_the_same(services: Services, empty_nodes: None, how: str) -> None:
    """A load without a lease, or the node's error; and what a delete did not reach is noted."""
    cache = RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"on_node_failure": how}})
    client, keep = cache.client, KEEPS["for a while"]
    owner = client.ring.owner(KEY)
    ways: dict[str, list[Callable[[], Any]]] = {
        "load": [
            lambda: client.get_or_load(KEY, lambda: "loaded", keep),
            lambda: client.run(protocol.get_or_load(client.context, KEY, lambda: "loaded", keep)),
        ],
        "delete": [
            lambda: client.delete(KEY),
            lambda: client.run(protocol.delete(client.context, KEY)),
        ],
    }
    services.kill(client.nodes[owner].name)
    try:
        for same in ways.values():
            assert told(same[0]) == told(same[1])
        assert client.context.missed.has_missed(owner, KEY)
    finally:
        services.restart(client.nodes[owner].name)


def told(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RingCacheError as error:
        return type(error)


def test_a_fill_that_was_overtaken_is_counted(cache: RingCache) -> None:
    """And nothing of it stands."""
    client = cache.client
    assert client.get_or_load(KEY, lambda: "old" if client.delete(KEY) else None, KEEPS["for ever"]) == "old"
    assert client.counters.total().stale_sets_refused == 1
    assert client.get(KEY) is None


def test_an_interrupted_load_gives_its_lease_back(cache: RingCache) -> None:
    """Others need not wait for it to lapse."""

    def interrupted() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.client.get_or_load(KEY, interrupted, KEEPS["for a while"])
    assert cache.client.nodes[cache.client.ring.owner(KEY)].call((b"GET", KEY)) is None

"""Records of random and mutated bytes, read by every operation that reads one, with every codec."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache, protocol
from cachebackend.codec import CODECS, COMPRESSORS, Codec
from cachebackend.errors import CodecError
from cachebackend.monitoring import key_figures
from cachebackend.testing import empty_ring
from tests.fuzz.mutants import BOMB, LOADED, count, mutant

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: What a caller of these must expect of a value that is not an integer, or none that can be written.
EXPECTED: dict[str, tuple[type[Exception], ...]] = {
    "incr": (ValueError, TypeError, OverflowError),
    "incr_version": (ValueError, CodecError),
}
#: Those that load no pickle which this project did not sign.
DISTRUSTFUL = {"signed-pickle", "json", "msgpack"}
#: The second one's record is made at random too.
TAGS = ("x", "hostile")


def load() -> str:
    return "loaded"


def load_many(keys: list[str]) -> dict[str, str]:
    return dict.fromkeys(keys, "loaded")


OPERATIONS: dict[str, Callable[[RingCache, str], object]] = {
    "get": lambda cache, key: cache.get(key),
    "aget": lambda cache, key: async_to_sync(cache.aget)(key),
    "get_many": lambda cache, key: cache.get_many([key, "other"]),
    "get_or_set": lambda cache, key: cache.get_or_set(key, load),
    "get_or_set with tags": lambda cache, key: cache.get_or_set(
        key, load, stale_for=5, tags=["x", "hostile"]
    ),
    "aget_or_set": lambda cache, key: async_to_sync(cache.aget_or_set)(
        key, load, stale_for=5, tags=["hostile"]
    ),
    "get_or_set_many": lambda cache, key: cache.get_or_set_many([key, "o"], load_many, tags=["hostile"]),
    "touch": lambda cache, key: cache.touch(key, 50),
    "persist": lambda cache, key: cache.persist(key),
    "add": lambda cache, key: cache.add(key, 1),
    "set": lambda cache, key: cache.set(key, 1, xx=True),
    "incr": lambda cache, key: cache.incr(key),
    "incr_version": lambda cache, key: cache.incr_version(key),
    "has_key": lambda cache, key: cache.has_key(key),
    "ttl": lambda cache, key: cache.ttl(key),
    "keys": lambda cache, key: cache.keys(),
    "make_stale": lambda cache, key: cache.make_stale(key, 5),
    "key_figures": lambda cache, key: key_figures("default", key, None, shows_value=True),
}


def seeds(cache: RingCache) -> list[bytes]:
    """Return records of each kind, codec and compressor, and pickles that record when they are loaded."""
    found = [b"L" + bytes(16), b"Q" + bytes(32), b"T" + bytes(16), b"5", b"-", b"", b"V", b"9" * 400]
    for name in CODECS:
        for compressor in ("none", *COMPRESSORS):
            codec = Codec(name, compressor, 5, lambda: (b"another project's",))
            found += [codec.encode(value, b"") for value in ("a" * 50, {"a": [1, 2, 3]}, None, [1.5] * 40)]
    cache.get_or_set("made", lambda: [1, 2], 60, stale_for=30, tags=TAGS)
    inspection = protocol.telemetry.inspect(cache.client.context, cache.key_bytes("made"))
    found.append(cache.client.run(inspection).record)
    found += [b"S" + record[1:] for record in found if record[:1] == b"V"]
    # The unsigned pickles several times, because these are the ones that must not be loaded
    return found + [b"Vp\0" + BOMB, b"Vs\0" + bytes(32) + BOMB, b"Sp\0" + BOMB] * 30


def put(cache: RingCache, key: bytes, record: bytes) -> None:
    life_ms = 20 if record[:1] == b"L" else 100_000  # a loader waits for the end of a lease
    cache.client.nodes[cache.client.ring.owner(key)].call((b"SET", key, record, b"PX", b"%d" % life_ms))


@pytest.fixture(
    params=[
        {"codec": "auto"},
        {"codec": "pickle"},
        {"codec": "signed-pickle"},
        {"codec": "json"},
        {"codec": "msgpack"},
        {"codec": "signed-pickle", "lease_on_get": True},
        {"codec": "json", "near": {"max_entries": 100}},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def cache(request: pytest.FixtureRequest) -> Iterator[RingCache]:
    with empty_ring(compressor="zlib", compress_over_bytes=20, lease_timeout=0.05, **request.param) as ring:
        yield ring


def test_no_damaged_record_harms_its_reader(cache: RingCache, request: pytest.FixtureRequest) -> None:
    """Any bytes are a value or a miss; unsigned bytes are unpickled only if the settings allow it."""
    generator = random.Random(random.getrandbits(32))
    found, tag = seeds(cache), cache.tag_bytes("hostile")
    LOADED.clear()
    tried = count(150)
    for turn in tried:
        name = generator.choice(list(OPERATIONS))
        record, key = mutant(generator, found), f"k{turn % 50}"
        put(cache, cache.key_bytes(key), record)
        if generator.random() < 0.3:
            put(cache, tag, mutant(generator, found))
        try:
            OPERATIONS[name](cache, key)
        except EXPECTED.get(name, ()):
            pass
        except Exception as error:
            raise AssertionError(f"{name} of {record!r}: {type(error).__name__}: {error}") from error
        cache.close()  # ends the leases of the request
    print(f"{len(tried)} records in mode {request.node.callspec.id}, {len(LOADED)} unsigned pickles loaded")
    # Where unsigned pickles are allowed this one is loaded, which proves that loading is recorded
    put(cache, cache.key_bytes("bomb"), b"Vp\0" + BOMB)
    cache.get("bomb")
    assert bool(LOADED) is (cache.client.context.options.codec not in DISTRUSTFUL)


def test_the_page_shows_any_record(ring_cache: RingCache) -> None:
    """The admin shows a key with any bytes; no pickle is loaded."""
    client, url = Client(), reverse("admin:cachebackend_ring_changelist")
    client.force_login(User.objects.create_superuser("root"))
    generator = random.Random(random.getrandbits(32))
    found, tried = seeds(ring_cache), count(10)
    LOADED.clear()
    for _ in tried:
        record = mutant(generator, found)
        put(ring_cache, ring_cache.key_bytes("k"), record)
        assert client.get(url, {"alias": "default", "key": "k"}).status_code == 200, record
    print(f"{len(tried)} records on the page")
    assert LOADED == []


@pytest.mark.parametrize("value", [10**5000, [10**5000]], ids=["alone", "in a list"])
def test_the_inspector_shows_a_value_without_a_text(ring_cache: RingCache, value: object) -> None:
    """Python writes no integer of more than 4300 digits."""
    put(ring_cache, ring_cache.key_bytes("k"), Codec("msgpack").encode(value, b""))
    assert str(key_figures("default", "k", None, shows_value=True).value).startswith("(cannot be shown")

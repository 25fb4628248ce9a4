"""Nodes that answer but refuse commands: full, read-only, not saved, without their primary, loading."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.node.breaker import EJECTED, UP, Breaker
from cacheproject.services import Services
from tests.integration.held_node import Probes, probes  # noqa: F401  # the fixture

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "lite"])


class Refuser:
    """A separate node, which can be made to refuse commands and to serve again."""

    def __init__(self, services: Services) -> None:
        services.add_node("refuser", "--save", "", "--stop-writes-on-bgsave-error", "yes")
        self.url = services.node_url("refuser").replace("name=refuser", "name=r")
        self.admin = redis.Redis.from_url(self.url.partition("?")[0])
        self._file = Path(services.folder) / "refuser" / "dump.rdb"

    def refuse(self, state: str) -> None:
        match state:
            case "OOM":
                self.admin.config_set("maxmemory", 1)
            case "READONLY":
                self.admin.replicaof("127.0.0.1", "1")
            case "MASTERDOWN":
                self.admin.config_set("replica-serve-stale-data", "no")
                self.admin.replicaof("127.0.0.1", "1")
            case "MISCONF":
                self._file.mkdir()  # the server cannot write a file of this name
                self.admin.config_set("save", "3600 1")
                self._save("err")

    def serve(self) -> None:
        self.admin.replicaof("NO", "ONE")
        self.admin.config_set("replica-serve-stale-data", "yes")
        self.admin.config_set("maxmemory", 0)
        if self._file.is_dir():
            self._file.rmdir()
            self._save("ok")
            self._file.unlink()
            self.admin.config_set("save", "")

    def _save(self, outcome: str) -> None:
        self.admin.bgsave()
        while (persistence := self.admin.info("persistence"))["rdb_bgsave_in_progress"]:
            continue
        assert persistence["rdb_last_bgsave_status"] == outcome


@pytest.fixture(scope="session")
def refuser(own_services: Services) -> Refuser:
    return Refuser(own_services)


@pytest.fixture
def cache(refuser: Refuser, settings: Any, probes: Probes) -> Iterator[RingCache]:  # noqa: F811
    """An alias with this node only, and two keys; probes run when the test runs them."""
    refuser.admin.flushall()
    with ring_of(refuser.url, settings) as cache:
        cache.set_many({"k": "old", "other": "stays"}, None)
        yield cache
    refuser.serve()


@contextmanager
def ring_of(url: str, settings: Any) -> Iterator[RingCache]:
    """Configure the default alias as a ring of one node."""
    block = settings.CACHES["default"] | {"LOCATION": [url], "OPTIONS": {}}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches["default"]
        assert isinstance(cache, RingCache)
        yield cache


def breaker_of(cache: RingCache) -> Breaker:
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    return breaker


def probe(cache: RingCache, probes: Probes) -> str:  # noqa: F811
    """Make a probe of the node due, run it, and return the node's state."""
    breaker_of(cache)._probe_at = 0.0
    cache.get("other")
    probes.run()
    return breaker_of(cache).state.state


def test_a_full_node_serves_its_values(cache: RingCache, refuser: Refuser, probes: Probes) -> None:  # noqa: F811
    """It refuses sets, but is not ejected; it deletes the value that a refused set should have replaced."""
    refuser.refuse("OOM")
    assert cache.get_or_set("k", lambda: "loaded") == "old"
    for _ in range(5):
        assert cache.set("k", "new") is False
    assert cache.set_many({"k": "new"}) == ["k"]
    assert cache.get_or_set("missing", lambda: "loaded") == "loaded"
    assert probe(cache, probes) == UP
    assert cache.get_many(["k", "other", "missing"]) == {"other": "stays"}
    assert cache.delete("other") is True


@pytest.mark.parametrize("state", ["READONLY", "MISCONF"])
@pytest.mark.parametrize("way", ["set", "delete"])
def test_a_node_that_refuses_deletes_is_ejected_at_the_first_missed_delete(
    cache: RingCache,
    refuser: Refuser,
    probes: Probes,  # noqa: F811
    state: str,
    way: str,
) -> None:
    """Until then it serves reads. It serves again once the missed deletes are replayed to it."""
    refuser.refuse(state)
    for _ in range(5):
        assert cache.get_or_set("k", lambda: "loaded") == "old"
    assert cache.get_or_set("missing", lambda: "loaded") == "loaded"
    assert breaker_of(cache).state.state == UP
    assert (cache.set("k", "new") if way == "set" else cache.delete("k")) is False
    assert probe(cache, probes) == EJECTED
    assert cache.get("k") is None
    refuser.serve()
    assert probe(cache, probes) == UP
    assert cache.get_many(["k", "other"]) == {"other": "stays"}


def test_a_replica_that_refuses_reads_is_ejected(
    cache: RingCache,
    refuser: Refuser,
    probes: Probes,  # noqa: F811
) -> None:
    """After three refused reads; its values are valid when its primary is back."""
    refuser.refuse("MASTERDOWN")
    for _ in range(3):
        assert cache.get("k") is None
    assert breaker_of(cache).state.state == EJECTED
    assert "MASTERDOWN" in breaker_of(cache).state.error
    refuser.serve()
    assert probe(cache, probes) == UP
    assert cache.get("k") == "old"


class Loading(socketserver.StreamRequestHandler):
    """Answers a handshake with OK and all else with LOADING; when it is done, like an empty node."""

    is_done = False

    def handle(self) -> None:
        while header := self.rfile.readline():
            words = []
            for _ in range(int(header[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].upper())
            if words[0] in {b"CLIENT", b"SELECT"}:
                self.wfile.write(b"+OK\r\n")
            elif not Loading.is_done:
                self.wfile.write(b"-LOADING Valkey is loading the dataset in memory\r\n")
            elif words[1:2] == [b"0" * 40]:
                self.wfile.write(b"-NOSCRIPT No matching script.\r\n")
            else:
                nothing = b"$-1\r\n"
                known = {b"PING": b"+PONG\r\n", b"GET": nothing, b"SET": nothing}
                self.wfile.write(known.get(words[0], b":0\r\n"))


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a node that is loading its file."""
    monkeypatch.setattr(Loading, "is_done", False)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Loading) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_node_that_is_loading_its_file_is_ejected_until_it_is_done(
    loading: int,
    settings: Any,
    probes: Probes,  # noqa: F811
) -> None:
    """Then the deletes that it missed are replayed to it."""
    with ring_of(f"redis://127.0.0.1:{loading}/0?name=r", settings) as cache:
        for _ in range(3):
            assert cache.get_or_set("k", lambda: "loaded") == "loaded"
        assert breaker_of(cache).state.state == EJECTED
        assert "loading" in breaker_of(cache).state.error.lower()
        cache.delete("k")
        assert probe(cache, probes) == EJECTED
        assert cache.client.context.missed.count(0) == 1
        Loading.is_done = True
        assert probe(cache, probes) == UP
        assert cache.client.context.missed.count(0) == 0
        cache.client.close()

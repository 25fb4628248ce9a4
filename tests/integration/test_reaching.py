"""Connecting to a node by login, TLS, socket, IPv6 and Sentinel; and the error if that fails."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from django.views.debug import ExceptionReporter

from cachebackend import RingCache, checks, protocol
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.monitoring.setup import ring_faults
from cacheproject.services import Services
from tests.fix_connections import PASSWORD, QUOTED, Guarded, TLSTerminator, Watched
from tests.shop.models import Tag

Open = Callable[..., RingCache]
SECRETS = (PASSWORD, QUOTED, "node-secret", "sentinel-secret", "wrong-secret")


@pytest.fixture
def open_cache() -> Iterator[Open]:
    """Make a cache of one node that raises every failure; its connections are closed after the test."""
    made: list[RingCache] = []

    def make(url: str, **options: Any) -> RingCache:
        given = {"on_node_failure": "raise", "connect_timeout": 2.0, "socket_timeout": 2.0, **options}
        made.append(RingCache([url], {"OPTIONS": given}))
        return made[-1]

    yield make
    for cache in made:
        cache.client.close()


def works(cache: RingCache) -> None:
    """Store and read a value, blocking and in an event loop."""

    async def main() -> None:
        assert await cache.aget("k") == "v"
        await cache.aset("k", "w")

    cache.set("k", "v")
    asyncio.run(main())
    assert cache.get("k") == "w"


def failure_of(cache: RingCache, call: Callable[..., Any]) -> str:
    """Return the message of a read that must fail; no traceback of it may contain a password."""
    with pytest.raises(NodeUnavailableError) as raised:
        call(cache, "get", "k")
    refuse_secrets("".join(traceback.format_exception(raised.value)))
    # Django's error page also shows the local variables of each frame
    refuse_secrets(unescape(ExceptionReporter(None, *raised._excinfo).get_traceback_html()))
    return str(raised.value)


def refuse_secrets(text: str) -> None:
    shown = [secret for secret in SECRETS if secret in text or repr(secret.encode())[2:-1] in text]
    assert not shown, text[text.index(shown[0]) - 600 :][:700]


class TestLogin:
    """A node with users."""

    def test_a_user_and_a_password_of_special_characters(self, guarded: Guarded, open_cache: Open) -> None:
        """They are percent-encoded in the URL."""
        works(open_cache(guarded.url()))

    def test_a_unix_socket(self, guarded: Guarded, open_cache: Open) -> None:
        """With user and password, too."""
        works(open_cache(f"unix://app:{QUOTED}@{guarded.socket}?db=1&name=g"))

    def test_ipv6_in_brackets(self, guarded: Guarded, open_cache: Open) -> None:
        """Where the machine has it."""
        try:
            socket.create_connection(("::1", guarded.port), 1).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        works(open_cache(guarded.url(host="[::1]")))

    @pytest.mark.parametrize("account", ["app:wrong-secret", ":wrong-secret", "nobody:wrong-secret"])
    def test_the_error_of_a_wrong_password_does_not_show_it(
        self, guarded: Guarded, open_cache: Open, call: Any, account: str
    ) -> None:
        """Nor the user's name."""
        cache = open_cache(guarded.url(account))
        assert failure_of(cache, call) == "node 'g' refused the user or password"

    @pytest.mark.parametrize(
        "password",
        [PASSWORD, lambda: PASSWORD, lambda: ("app", PASSWORD)],
        ids=["a text", "a function", "a function that also returns the user"],
    )
    def test_a_password_in_the_options(self, guarded: Guarded, open_cache: Open, password: Any) -> None:
        """It is used for a URL that has none."""
        account = "" if callable(password) and isinstance(password(), tuple) else "app@"
        url = guarded.url().replace(f"app:{QUOTED}@", account)
        works(open_cache(url, password=password))

    def test_the_password_of_a_url_is_used_first(self, guarded: Guarded, open_cache: Open) -> None:
        """The option is for the other nodes."""
        works(open_cache(guarded.url(), password="wrong-secret"))

    def test_a_function_is_called_for_each_connection(
        self, guarded: Guarded, open_cache: Open, call: Any
    ) -> None:
        """So a password that changes, or a token that expires, needs no restart."""
        passwords = iter(["wrong-secret", PASSWORD])
        cache = open_cache(guarded.url("app"), password=lambda: next(passwords))
        assert failure_of(cache, call) == "node 'g' refused the user or password"
        assert call(cache, "get", "unset", "absent") == "absent"

    @pytest.mark.parametrize(
        ("function", "says"),
        [
            (lambda: 1 / 0, "raised ZeroDivisionError"),
            (lambda: None, "returned neither a text nor a user and a text"),
            (lambda: (), "returned neither a text nor a user and a text"),
            (lambda: f"{PASSWORD}\udc80", "returned a text that is not valid Unicode"),
            (lambda: ("app\udc80", PASSWORD), "returned a text that is not valid Unicode"),
        ],
    )
    def test_a_function_that_fails_is_a_failure_of_the_node(
        self, guarded: Guarded, open_cache: Open, call: Any, function: Any, says: str
    ) -> None:
        """It does not stop the site: with ``on_node_failure="miss"`` the read misses."""
        message = f"node 'g' is not reachable: the function that returns its password {says}"
        assert failure_of(open_cache(guarded.url("app"), password=function), call) == message
        missing = open_cache(guarded.url("app"), password=function, on_node_failure="miss")
        assert call(missing, "get", "k") is None

    def test_a_missing_password(self, guarded: Guarded, open_cache: Open, call: Any) -> None:
        """The error is the same as for a login that is refused."""
        url = guarded.url().replace(f"app:{QUOTED}@", "")
        assert failure_of(open_cache(url), call) == "node 'g' refused the user or password"

    def test_a_user_without_write_permission(self, guarded: Guarded, open_cache: Open, call: Any) -> None:
        """The node is up, so its error reply is raised."""
        cache = open_cache(guarded.url("reader:reader"))
        call(cache, "get", "k")
        with pytest.raises(NodeReplyError, match="NOPERM"):
            call(cache, "set", "k", "v")

    @pytest.mark.parametrize("denied", ["-eval -evalsha", "-@scripting"])
    def test_a_user_that_may_write_but_not_run_scripts(
        self, guarded: Guarded, open_cache: Open, call: Any, denied: str
    ) -> None:
        """It could fill values that it could never delete, so the node is not used until it may."""
        account = ("SETUSER", "noscripts", "reset", "on", ">secret", "~*", "&*", "+@all")
        with redis.Redis(port=guarded.port, username="admin", password="admin") as admin:
            admin.execute_command("ACL", *account, *denied.split())
            try:
                cache = open_cache(guarded.url("noscripts:secret"))
                message = failure_of(cache, call)
                [fault] = ring_faults("default", cache.client)
                admin.execute_command("ACL", *account)
                cache.set("k", "v")
                assert call(cache, "delete", "k") is True
            finally:
                admin.execute_command("ACL", "DELUSER", "noscripts")
        assert message == (
            "node 'g' lets its user write but not run scripts, which every delete needs: grant +@scripting"
        )
        assert message in fault

    def test_a_database_that_does_not_exist(self, guarded: Guarded, open_cache: Open, call: Any) -> None:
        """The error does not say that the login failed or that the node is down."""
        assert failure_of(open_cache(guarded.url(database=99)), call) == "node 'g' has no such database"

    def test_a_node_that_accepts_no_more_connections(
        self, guarded: Guarded, open_cache: Open, call: Any
    ) -> None:
        """The error names the node's limit."""
        with redis.Redis(port=guarded.port, username="admin", password="admin") as admin:
            usual = admin.config_get("maxclients")["maxclients"]
            admin.config_set("maxclients", 1)
            try:
                for _ in range(20):  # the node may reset the connection before its error is read
                    message = failure_of(open_cache(guarded.url()), call)
                    if "reset" not in message:
                        break
            finally:
                admin.config_set("maxclients", usual)
        assert message == "node 'g' accepts no more connections (its maxclients)"

    def test_a_name_that_cannot_be_resolved(self, open_cache: Open, call: Any) -> None:
        """The error names the host."""
        message = failure_of(open_cache(f"redis://app:{QUOTED}@no-such-host.invalid/0?name=g"), call)
        assert message.startswith("node 'g' has a host name that cannot be resolved: ")
        assert "no-such-host.invalid" in message

    def test_no_log_line_or_repr_shows_a_password(
        self, guarded: Guarded, open_cache: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither the log line of a failure that is served as a miss, nor the repr of options and clients."""
        caplog.set_level(logging.DEBUG)
        cache = open_cache(guarded.url(f"nobody:{QUOTED}"), on_node_failure="miss")
        assert cache.get("k") is None
        assert caplog.text
        shown = caplog.text + repr(cache.client.context.options) + repr(cache.client.nodes) + repr(cache)
        assert not any(secret in shown for secret in SECRETS)


class TestTLS:
    """A node behind TLS; the test's own certificate authority has issued its certificate."""

    @pytest.fixture
    def terminator(self, guarded: Guarded, authority: trustme.CA) -> Iterator[TLSTerminator]:
        """Presents a certificate for localhost, and accepts clients that the same authority has certified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        terminator = TLSTerminator(guarded.port, context)
        yield terminator
        terminator.close()

    @pytest.fixture
    def url(self, terminator: TLSTerminator, authority: trustme.CA, tmp_path: Path) -> Callable[..., str]:
        """Write the certificate files; return a function that makes a URL with the given parameters."""
        mine = authority.issue_cert("client@example.org")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        own = {"ssl_ca_certs": tmp_path / "ca.pem", "ssl_certfile": tmp_path / "client.pem"}
        own["ssl_keyfile"] = own["ssl_certfile"]

        def make(*names: str, host: str = "localhost") -> str:
            query = "".join(f"&{name}={own[name]}" for name in names)
            return f"rediss://app:{QUOTED}@{host}:{terminator.port}/0?name=g{query}"

        return make

    def test_a_client_certificate_and_an_own_authority(
        self, url: Callable[..., str], open_cache: Open
    ) -> None:
        """Blocking and in asyncio; no connection is open when the event loop has ended."""
        works(open_cache(url("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")))

    def test_many_values_and_large_ones(self, url: Callable[..., str], open_cache: Open, call: Any) -> None:
        """They do not fit in one TLS record."""
        cache = open_cache(url("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
        values = {f"k{number}": "x" * 50_000 for number in range(20)}
        assert call(cache, "set_many", values) == []
        assert call(cache, "get_many", list(values)) == values

    def test_an_unknown_authority_is_refused(
        self, url: Callable[..., str], open_cache: Open, call: Any
    ) -> None:
        """Certificates are verified unless the URL says otherwise."""
        message = failure_of(open_cache(url("ssl_certfile", "ssl_keyfile")), call)
        assert message.startswith("node 'g' has a TLS certificate that cannot be verified: ")
        assert "certificate verify failed" in message.lower()

    def test_a_certificate_of_another_host_is_refused(
        self, url: Callable[..., str], open_cache: Open, call: Any
    ) -> None:
        """The host name is verified, not only the authority."""
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        message = failure_of(open_cache(url(*names, host="127.0.0.1")), call)
        assert message.startswith("node 'g' has a TLS certificate that cannot be verified: ")

    def test_without_a_client_certificate_the_node_refuses(
        self, url: Callable[..., str], open_cache: Open, call: Any
    ) -> None:
        """The connection fails; it does not hang."""
        assert "'g'" in failure_of(open_cache(url("ssl_ca_certs")), call)

    def test_a_node_that_does_not_answer_times_out(
        self, url: Callable[..., str], open_cache: Open, guarded: Guarded, own_services: Any, call: Any
    ) -> None:
        """With the same message as without TLS."""
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        cache = open_cache(url(*names), socket_timeout=0.3)
        cache.set("k", "v")
        own_services.stop("guarded")
        try:
            assert failure_of(cache, call) == "node 'g' did not answer within 0.3 s"
        finally:
            own_services.resume("guarded")

    def test_no_connection_stays_open_if_the_node_never_closes_its_side(
        self, url: Callable[..., str], open_cache: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It answers neither the login nor the closing of TLS; and a cancelled task does not wait for it."""
        ended = threading.Event()

        def never_answer(_: TLSTerminator, client: ssl.SSLSocket, node: socket.socket) -> None:
            with client, node:
                ended.wait()

        monkeypatch.setattr(TLSTerminator, "_forward", never_answer)
        cache = open_cache(url("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), socket_timeout=0.3)

        async def cancelled() -> None:
            task = asyncio.create_task(cache.aget("k"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])

        try:
            with pytest.raises(NodeUnavailableError, match="did not answer within 0.3 s"):
                asyncio.run(cache.aget("k"))
            asyncio.run(cancelled())
            gc.collect()  # an open connection would warn now, and fail the test
        finally:
            ended.set()


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])  # missed deletes are stored there
class TestSentinel:
    """A node that sentinels watch."""

    @pytest.mark.django_db(transaction=True, databases=["default", "lite"])
    def test_a_failover_needs_no_change_of_settings(self, watched: Watched, open_cache: Open) -> None:
        """The primary is killed, the sentinels promote the replica, and the cache works again."""
        cache = open_cache(watched.url)
        wait(lambda: works(cache))
        wait(lambda: replica_has_caught_up(watched))
        watched.services.kill("primary")
        with pytest.raises(NodeUnavailableError):
            cache.get("k")
        wait(lambda: works(cache))
        with redis.Redis(port=watched.nodes["replica"], password="node-secret") as promoted:
            assert promoted.role()[0] == b"master"

    def test_deletes_do_not_wait_for_replicas_of_a_gutter(
        self, watched: Watched, open_cache: Open, services: Services
    ) -> None:
        """It is a plain node, which has none: no delete would ever be confirmed."""
        cache = open_cache(watched.url, wait_replicas=1, gutter=services.ring_urls[:1])
        wait(lambda: works(cache))
        wait(lambda: replica_has_caught_up(watched))
        assert cache.client.run(protocol.delete_many(cache.client.context, [b"key"])) == []
        registry = b"registry\xff"
        assert cache.client.run(protocol.read_shards(cache.client.context, [registry])) == ({}, [], True)

    def test_the_error_of_an_unknown_service_names_the_sentinels(
        self, watched: Watched, open_cache: Open, call: Any
    ) -> None:
        """Sentinels that do not answer are named too; no password is shown."""
        ports = ", ".join(f"127.0.0.1:{port}" for port in [1, *watched.sentinels])
        message = failure_of(open_cache(watched.url.replace("/shop", "/other")), call)
        assert (
            message
            == f"node 'other' is not reachable: none of the sentinels {ports} knows a primary named 'other'"
        )
        wrong = watched.url.replace("sentinel-secret", "wrong-secret")
        assert "knows a primary named 'shop'" in failure_of(open_cache(wrong), call)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        (["redis+sentinel://:secret@h1,h2/shop", "redis://h3"], "'shop' of its nodes is behind Sentinel"),
        ("redis+cluster://:secret@h1,h2", "LOCATION is a cluster"),
    ],
)
@pytest.mark.ring_of_nodes
def test_a_strict_model_on_nodes_with_a_failover_is_an_error_unless_it_is_accepted(
    location: object, says: str, settings: Any, monkeypatch: pytest.MonkeyPatch, empty_nodes: None
) -> None:
    """A promoted replica may lack the last writes of the old primary, unless they wait for a replica."""

    def found(**options: object) -> list[tuple[str, object]]:
        block = {"BACKEND": "cachebackend.RingCache", "LOCATION": location, "OPTIONS": options}
        settings.CACHES = {"default": block}
        messages = [*checks.check_strict_failovers(), *checks.check_lost_quarantines()]
        ours = [each for each in messages if each.obj._meta.app_label == "shop"]
        assert all(says in each.msg and "secret" not in each.msg for each in ours)
        return [(str(each.id), each.obj) for each in ours]

    assert [*checks.check_strict_failovers(), *checks.check_lost_quarantines()] == []
    monkeypatch.setattr(Tag.cached, "is_strict", True)
    assert [*checks.check_strict_failovers(), *checks.check_lost_quarantines()] == []
    assert found() == found(wait_replicas=1) == [("ringcache.E020", Tag)]
    assert found(strict_on_failover="accept") == [("ringcache.W002", Tag)]
    assert found(strict_on_failover="accept", wait_replicas=1) == []


def replica_has_caught_up(watched: Watched) -> None:
    with redis.Redis(port=watched.nodes["primary"], password="node-secret") as primary:
        assert primary.info("replication")["connected_slaves"] == 1
        assert primary.wait(1, 1000) == 1
    for port in watched.sentinels:
        with redis.Redis(port=port, password="sentinel-secret") as sentinel:
            assert len(sentinel.sentinel_slaves(watched.service)) == 1
            assert len(sentinel.sentinel_sentinels(watched.service)) == 2


def wait(check: Callable[[], object], seconds: float = 90.0) -> None:
    """Try until the check passes: sentinels may vote twice, and the waits between probes double."""
    end = time.monotonic() + seconds
    while True:
        try:
            check()
        except (NodeUnavailableError, AssertionError, redis.RedisError, IndexError):
            if time.monotonic() > end:
                raise
            threading.Event().wait(0.05)
        else:
            return

"""Settings of any kind: valid, or a ConfigurationError that shows no secret."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cachebackend.client import RingClient
from cachebackend.client.queue import QueueClient
from cachebackend.error_reports import URLPasswordFilter
from cachebackend.errors import ConfigurationError
from cachebackend.options import Faults, ProjectOptions, RingOptions, WriteBehindOptions
from cachebackend.options.cluster import parse_location

SECRET = "hunter2"
FILTER = URLPasswordFilter()
#: Pieces of URLs, with the characters that separate their parts; the secret may be in any place.
PIECES = (
    st.sampled_from(
        ["redis", "rediss", "unix", "redis+sentinel", "rediss+cluster", "://", "%00", "[::1]", "h", "user"]
    )
    | st.sampled_from(["0", "6379", "99999", "name", "weight", "db", "ssl_cert_reqs", "ssl_check_hostname"])
    | st.sampled_from(["ssl_password", "sentinel_password", *":@/?#&=,;%[]²é \0\ud800"])
)
#: A URL whose login ends with the secret: before it, and after it, there is anything.
LOGINS = st.tuples(st.lists(PIECES, max_size=6), st.lists(PIECES, max_size=6)).map(
    lambda parts: "".join(parts[0]) + SECRET + "".join(parts[1])
)
NODE_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://")
SCHEMES = st.sampled_from([*NODE_SCHEMES, "redis+cluster://", "rediss+cluster://", "http://", ""])
URLS = st.builds(
    lambda scheme, login, rest: f"{scheme}:{login}@{''.join(rest)}",
    SCHEMES,
    LOGINS,
    st.lists(PIECES, max_size=8),
)


class Awkward:
    """A value whose ``repr`` fails."""

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.builds(Awkward),
    st.builds(object),
)
VALUES = st.recursive(
    SCALARS | URLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted({*RingOptions.__dataclass_fields__, *WriteBehindOptions.__dataclass_fields__}))
BLOCKS = st.dictionaries(NAMES | SCALARS.filter(lambda value: value.__hash__ is not None), VALUES, max_size=4)


def read(function: Callable[[], Any]) -> Any:
    """Return the options, or None after a ConfigurationError; any other error fails the test."""
    try:
        return function()
    except ConfigurationError:
        return None


@settings(max_examples=300, deadline=None)
@given(st.lists(URLS | st.text(max_size=30), max_size=3))
@example([f"redis://u:1/{SECRET}@h:1/0"])
@example([f"redis://u:1?name={SECRET}@h:1/0"])
@example([f"redis://:p%40{SECRET}@h:1/0#x"])
@example(["redis://h/²"])
@example([f"redis://:a,'\"; {SECRET}@h"])
def test_no_fault_no_repr_and_no_error_report_of_urls_shows_a_password(urls: list[str]) -> None:
    """Wherever the password's own characters cut the URL."""
    faults = Faults("LOCATION")
    nodes, cluster = parse_location(urls, faults)
    shown = "".join(faults.messages)
    if not faults.messages:  # the filter masks each URL that is valid, however a text or a list holds it
        shown += str(FILTER.cleanse_setting("", [*urls, {",".join(urls)}, str(urls).encode()]))
    for node in nodes:
        shown += f"{node!r} {node.public_url} {node.setting} {node.name} {node.endpoint}"
    shown += "" if cluster is None else f"{cluster!r} {cluster.public_url} {cluster.endpoint}"
    assert SECRET not in shown


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.sampled_from(NODE_SCHEMES))
def test_a_quoted_password_of_any_characters_is_valid(password: str, scheme: str) -> None:
    """And no repr shows it."""
    with suppress(UnicodeEncodeError):  # text that no server can receive
        secret = f"{SECRET}{quote(password, safe='')}"
        rest = {"unix://": "/run/valkey.sock", "redis+sentinel://": "h1,h2/shop"}.get(scheme, "h:1/0")
        options = RingOptions.read([f"{scheme}u:{secret}@{rest}"], {}, "CACHES['default']")
        client = RingClient(options)
        assert SECRET not in f"{options!r} {client.nodes!r} {options.nodes[0].setting}"


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES | BLOCKS)
@example("redis://h", {"lease_timeout": 10**5000})
def test_options_of_any_kind_are_valid_or_a_configuration_error(location: object, block: object) -> None:
    """And valid options make a client, if they name nodes."""
    options = read(lambda: RingOptions.read(location, block, "CACHES['default']"))
    if options is not None and options.nodes:
        RingClient(options)


@settings(max_examples=300, deadline=None)
@given(VALUES | BLOCKS)
@example({"partitions": 10**5000})
def test_write_behind_of_any_kind_is_valid_or_a_configuration_error(block: object) -> None:
    """And valid options make a client, if they name a node."""
    options = read(lambda: WriteBehindOptions.read(block))
    if options is not None and options.nodes:
        QueueClient(options)


@settings(max_examples=200, deadline=None)
@given(VALUES | st.fixed_dictionaries({}, optional={"namespace": VALUES, "models": VALUES}))
def test_project_options_of_any_kind_are_valid_or_a_configuration_error(block: object) -> None:
    """The same for ``RINGCACHE``."""
    read(lambda: ProjectOptions.read(block))


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=20) | VALUES)
def test_a_password_is_in_no_message_and_no_repr(value: Any) -> None:
    """Whether it is valid or not, and if another option has a fault."""
    secret = f"{SECRET}{value}" if isinstance(value, str) else [SECRET, value]
    for timeout in (1.0, "no number"):
        try:
            options = RingOptions.read(
                "redis://h", {"password": secret, "socket_timeout": timeout}, "CACHES['default']"
            )
        except ConfigurationError as error:
            assert SECRET not in str(error)  # noqa: PT017  # valid values raise none
        else:
            assert SECRET not in f"{options!r} {options.all_nodes!r}"

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from cachebackend.codec import CODECS, COMPRESSORS
from cachebackend.errors import ConfigurationError
from cachebackend.options import RingOptions
from cachebackend.policies import POLICIES

PATH = "CACHES['default']"
URL = "redis://10.0.0.1:6379/0?name=a"


def faults_of(location: object, **options: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read(location, options, PATH)
    return raised.value.faults


def test_options_that_are_left_out_have_their_defaults() -> None:
    """A block with one URL is complete."""
    options = RingOptions.read(URL, {}, PATH)
    assert (options.connect_timeout, options.socket_timeout, options.lease_timeout) == (0.25, 0.25, 5.0)
    assert options.on_node_failure == "miss"


def test_every_fault_is_reported_with_its_path() -> None:
    """Each fault is one message, which begins with the path of its setting."""
    faults = faults_of([URL, "http://x"], lease_timeout=-1, codec="xml")
    assert faults == (
        (
            "CACHES['default']['LOCATION'][1]: must begin with one of redis://, rediss://, unix://, "
            "redis+sentinel://, redis+cluster://, rediss+cluster://"
        ),
        "CACHES['default']['OPTIONS']['lease_timeout']: must be > 0 seconds, got -1",
        (
            "CACHES['default']['OPTIONS']['codec']: "
            "must be one of auto, pickle, signed-pickle, json, msgpack, got 'xml'"
        ),
    )


def test_an_unknown_option_is_a_fault_that_suggests_a_similar_one() -> None:
    """A misspelt option is not ignored."""
    [fault] = faults_of(URL, lease_timeoot=3)
    assert (
        fault
        == "CACHES['default']['OPTIONS']['lease_timeoot']: unknown option; did you mean 'lease_timeout'?"
    )


def test_two_nodes_of_the_same_name_are_a_fault() -> None:
    """The name decides which keys a node owns, so it must be unique."""
    [fault] = faults_of([URL, "redis://10.0.0.2:6379/0?name=a"])
    assert fault == "CACHES['default']['LOCATION'][1]: a second node is named 'a'; give each its own ?name="


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("redis://h", "redis://:secret@H:6379/0"),
        ("redis://h/2", "redis://h?db=2"),
        ("redis://h", "rediss://h"),
        ("unix:///run/s", "unix://:secret@/run/s?db=0"),
        ("redis+sentinel://h1,h2/shop", "redis+sentinel://:secret@h2,h1:26379/shop/0"),
    ],
)
def test_two_nodes_of_the_same_endpoint_are_a_fault(one: str, same: str) -> None:
    """A set at one node would overwrite the keys of the other; another database is another endpoint."""

    def named(url: str, name: str) -> str:
        return f"{url}{'&' if '?' in url else '?'}name={name}"

    [fault] = faults_of([named(one, "a"), named(same, "b")])
    assert fault.startswith("CACHES['default']['LOCATION'][1]: is the same server and database as node 'a'")
    assert "secret" not in fault
    RingOptions.read(["redis://h/0?name=a", "redis://h/1?name=b"], {}, PATH)


@pytest.mark.parametrize(
    ("option", "names", "value"),
    [
        ("codec", CODECS, lambda name: name),
        ("compressor", ["none", *COMPRESSORS], lambda name: name),
        ("near", POLICIES, lambda name: {"policy": name}),
    ],
)
def test_every_listed_codec_compressor_and_policy_may_be_named(
    option: str, names: Iterable[str], value: Callable[[str], object]
) -> None:
    """The options read the tables of the packages; another name is a fault that lists them."""
    for name in names:
        RingOptions.read(URL, {option: value(name)}, PATH)
    [fault] = faults_of(URL, **{option: value("another")})
    assert f"must be one of {', '.join(names)}, got 'another'" in fault


@pytest.mark.parametrize("location", [[], "", ()])
def test_no_node_is_a_fault(location: object) -> None:
    """A ring has at least one node."""
    [fault] = faults_of(location)
    assert fault.startswith("CACHES['default']['LOCATION']: has no node")


def test_options_of_every_django_backend_are_ignored() -> None:
    """MAX_ENTRIES and CULL_FREQUENCY are not faults."""
    RingOptions.read(URL, {"MAX_ENTRIES": 30, "CULL_FREQUENCY": 0}, PATH)


@pytest.mark.parametrize("value", [True, "3", None, float("nan"), float("inf")])
def test_a_timeout_is_a_finite_number(value: object) -> None:
    """A bool, a text, None, NaN and infinity are faults."""
    [fault] = faults_of(URL, socket_timeout=value)
    assert fault.startswith("CACHES['default']['OPTIONS']['socket_timeout']: must be ")


@pytest.mark.parametrize(
    ("near", "says"),
    [
        ({"max_entries": 0}, r"\['near'\]\['max_entries'\]"),
        ({"policy": "fifo"}, "one of lru, lfu"),
        ({"size": 1}, "unknown"),
        (5, "must be a dict or None"),
    ],
)
def test_faults_of_the_settings_are_reported(near: Any, says: str) -> None:
    """With their paths."""
    with pytest.raises(ConfigurationError, match=says):
        RingOptions.read(["redis://h:1"], {"near": near}, "CACHES['default']")


@pytest.mark.parametrize("password", ["", b"hunter2", 7, ["hunter2"]])
def test_a_password_is_a_text_or_a_function(password: object) -> None:
    """The message does not show what it is instead."""
    [fault] = faults_of(URL, password=password)
    assert "['password']: must be a text that is not empty, or a function" in fault
    assert "hunter2" not in fault


def test_a_password_that_cannot_be_encoded_is_a_fault() -> None:
    """Python reads bytes of an environment variable that are not UTF-8 as surrogates."""
    [fault] = faults_of(URL, password="hunter2\udc80")
    assert "['password']: has a character that is not valid Unicode" in fault
    assert "hunter2" not in fault


def test_a_process_can_hold_a_decompressed_value() -> None:
    """A decoded value takes up to 75 times its bytes, so the default is far below what a node stores."""
    assert RingOptions.__dataclass_fields__["max_value_bytes"].default == 64 * 1024**2


@pytest.mark.parametrize("seed", ["", b"hunter2", 76543.21, -7654321, 2**64 + 7654321, True, ["hunter2"]])
def test_a_hash_seed_is_a_text_or_a_number_of_64_bits(seed: object) -> None:
    """The message does not show what it is instead."""
    [fault] = faults_of(URL, hash_seed=seed)
    assert "['hash_seed']: must be a text that is not empty, or a whole number" in fault
    assert not any(secret in fault for secret in ("hunter2", "76543", str(2**64 + 7654321)))


@pytest.mark.parametrize("seed", ["hunter2", 7654321, 0, 2**64 - 1])
def test_the_text_of_options_does_not_show_the_hash_seed(seed: str | int) -> None:
    """Options with another seed are other options, so two such aliases do not share a client."""
    options = RingOptions.read(URL, {"hash_seed": seed}, PATH)
    assert options != RingOptions.read(URL, {}, PATH)
    assert "hash_seed" not in repr(options)

"""Which codec writes what, and which codecs it reads."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.codec.payload import CODECS, LOADERS, load_signed, sign_again
from cachebackend.codec.record import CodecId
from cachebackend.errors import CodecError, RecordError

KEY = b"shop:1:k"


def secrets() -> list[bytes]:
    return [b"new", b"old"]


@pytest.mark.parametrize(
    ("name", "plain", "other"),
    [
        ("auto", CodecId.MSGPACK_EXTENDED, CodecId.PICKLE),
        ("pickle", CodecId.PICKLE, CodecId.PICKLE),
        ("signed-pickle", CodecId.MSGPACK_EXTENDED, CodecId.SIGNED_PICKLE),
        ("msgpack", CodecId.MSGPACK_EXTENDED, None),
        ("json", CodecId.JSON, None),
    ],
)
def test_each_codec_writes_plain_data_and_may_write_the_rest(
    name: str, plain: CodecId, other: CodecId | None
) -> None:
    """``msgpack`` and ``json`` refuse what would not come back as it is."""
    dumps = CODECS[name].writer(secrets)
    assert dumps(["x"], KEY)[0] is plain
    if other is None:
        with pytest.raises(CodecError):
            dumps({1: 2}, KEY)
    else:
        codec, payload = dumps({1: 2}, KEY)
        assert codec is other
        is_signed = codec is CodecId.SIGNED_PICKLE
        assert (load_signed(secrets(), payload, KEY) if is_signed else LOADERS[codec](payload)) == {1: 2}


def test_an_unsigned_pickle_is_read_only_where_the_settings_trust_the_nodes() -> None:
    """``msgpack`` and ``json`` read no pickle at all."""
    reads = {name: codec.reads for name, codec in CODECS.items()}
    assert {name for name, codecs in reads.items() if CodecId.PICKLE in codecs} == {"auto", "pickle"}
    assert {name for name, codecs in reads.items() if CodecId.SIGNED_PICKLE in codecs} == {
        "auto", "pickle", "signed-pickle",
    }  # fmt: skip
    assert all({CodecId.MSGPACK_EXTENDED, CodecId.JSON} <= codecs for codecs in reads.values())


def test_the_first_secret_signs_and_every_secret_is_accepted() -> None:
    """While SECRET_KEY is changed, its fallbacks are the others."""
    payload = signed_by(b"old")
    assert load_signed(secrets(), payload, KEY) == {1: 2}
    for wrong in (payload[:-1] + b"x", b"short", signed_by(b"another")):
        with pytest.raises(RecordError, match="no valid signature"):
            load_signed(secrets(), wrong, KEY)


def signed_by(secret: bytes) -> bytes:
    """Return the payload of ``{1: 2}`` under KEY."""
    return CODECS["signed-pickle"].writer(lambda: [secret])({1: 2}, KEY)[1]


def test_a_signature_is_valid_for_one_key() -> None:
    """A record that someone copies to another key is not read; what moves a value signs it again."""
    payload = signed_by(b"old")
    for other in (b"", KEY + b"\x80", KEY[:-1]):
        with pytest.raises(RecordError, match="no valid signature"):
            load_signed(secrets(), payload, other)
        with pytest.raises(RecordError, match="no valid signature"):
            sign_again(secrets(), payload, other, KEY)
    moved = sign_again(secrets(), payload, KEY, b"target")
    assert load_signed([b"new"], moved, b"target") == {1: 2}


@pytest.mark.parametrize("value", [(1,), {1: 2}, {"a": {2: 3}}, [float("nan")], {"a": b"x"}])
def test_json_refuses_what_it_would_change(value: Any) -> None:
    """Tuples, keys that are not str, NaN and bytes, at any depth."""
    with pytest.raises(CodecError, match="codec 'json' cannot hold"):
        CODECS["json"].writer(secrets)(value, KEY)


def test_json_is_written_without_blanks() -> None:
    """Shorter, and the same for equal values."""
    assert CODECS["json"].writer(secrets)({"a": [1, None]}, KEY) == (CodecId.JSON, b'{"a":[1,null]}')


@pytest.mark.parametrize("value", [b"x", [b"x"], {"a": bytearray(b"x")}, {"a": [memoryview(b"x")]}])
def test_json_refuses_bytes(value: Any) -> None:
    """Which MessagePack, by which most values are checked, has."""
    with pytest.raises(CodecError, match="codec 'json' cannot hold a (bytes|bytearray|memoryview)"):
        CODECS["json"].writer(secrets)(value, KEY)


@pytest.mark.parametrize(
    "value", [2**70, -(2**64), "\ud800", {"\ud800": ["\udfff"]}, 1.5, {"a": [True, None]}]
)
def test_json_holds_what_messagepack_does_not(value: Any) -> None:
    """Large integers, and lone surrogates."""
    codec, payload = CODECS["json"].writer(secrets)([value], KEY)
    assert LOADERS[codec](payload) == [value]

"""Which codec writes what, and which codecs it reads."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.codec.payload import CODECS, loaders
from cachebackend.codec.record import CodecId
from cachebackend.errors import CodecError, RecordError


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
    assert dumps(["x"])[0] is plain
    if other is None:
        with pytest.raises(CodecError):
            dumps({1: 2})
    else:
        codec, payload = dumps({1: 2})
        assert (codec, loaders(secrets)[codec](payload)) == (other, {1: 2})


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
    _, payload = CODECS["signed-pickle"].writer(lambda: [b"old"])({1: 2})
    load = loaders(secrets)[CodecId.SIGNED_PICKLE]
    assert load(payload) == {1: 2}
    for wrong in (payload[:-1] + b"x", b"short", loaded_under(b"another")):
        with pytest.raises(RecordError, match="no valid signature"):
            load(wrong)


def loaded_under(secret: bytes) -> bytes:
    return CODECS["signed-pickle"].writer(lambda: [secret])({1: 2})[1]


@pytest.mark.parametrize("value", [(1,), {1: 2}, {"a": {2: 3}}, [float("nan")], {"a": b"x"}])
def test_json_refuses_what_it_would_change(value: Any) -> None:
    """Tuples, keys that are not str, NaN and bytes, at any depth."""
    with pytest.raises(CodecError, match="codec 'json' cannot hold"):
        CODECS["json"].writer(secrets)(value)


def test_json_is_written_without_blanks() -> None:
    """Shorter, and the same for equal values."""
    assert CODECS["json"].writer(secrets)({"a": [1, None]}) == (CodecId.JSON, b'{"a":[1,null]}')

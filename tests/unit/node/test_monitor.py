"""Parsing the lines of MONITOR."""

from __future__ import annotations

import pytest

from cachebackend.node.monitor import read_keys_of


@pytest.mark.parametrize("client", [b"127.0.0.1:60866", b"[::1]:60866", b"unix:/run/my valkey.sock"])
@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (rb'"GET" ":1:page 7"', [b":1:page 7"]),
        (rb'"mget" "a b" "c"', [b"a b", b"c"]),
        (rb'"GET" "say \"x\" \\ \n \xc3\xa9"', ['say "x" \\ \n é'.encode()]),
        (rb'"GET" "] \"GET\" \"x"', [b'] "GET" "x']),
        (rb'"SET" "a" "1"', []),
        (rb'"PING"', []),
    ],
)
def test_a_read_has_its_complete_keys(client: bytes, command: bytes, keys: list[bytes]) -> None:
    """Keys may contain blanks, quotes and any bytes."""
    assert read_keys_of(b"1339518083.107412 [15 %b] %b" % (client, command)) == (1339518083.107412, keys)


def test_a_read_by_a_script_has_no_keys() -> None:
    """No client receives its value."""
    assert read_keys_of(b'1339518083.1 [0 lua] "GET" "a"') == (0.0, [])

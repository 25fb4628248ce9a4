"""Scripts as commands."""

from __future__ import annotations

from hashlib import sha1

import pytest

from cachebackend.effects import Script, is_unknown_script
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.replies import integer

SCRIPT = Script("cachebackend.protocol.ring", "delete", reply=integer)


def test_a_script_is_called_by_its_sha1() -> None:
    """With its keys and arguments; the same call can carry the source."""
    call = SCRIPT.call([b"k", b"l"], b"1", b"x")
    assert call == (b"EVALSHA", sha1(SCRIPT.source).hexdigest(), b"2", b"k", b"l", b"1", b"x")
    assert call.with_source == (b"EVAL", SCRIPT.source, b"2", b"k", b"l", b"1", b"x")
    assert call.script is SCRIPT


def test_a_script_begins_with_its_preludes() -> None:
    """In their order."""
    parts = [Script("cachebackend.protocol.queue", name, reply=integer).source for name in ("seal", "close")]
    assert Script("cachebackend.protocol.queue", "close", "seal", reply=integer).source == b"".join(parts)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (NodeReplyError("NOSCRIPT No matching script"), True),
        (NodeReplyError("OOM"), False),
        (NodeUnavailableError("NOSCRIPT"), False),
        (b"NOSCRIPT", False),
        (None, False),
    ],
)
def test_only_noscript_means_that_nothing_ran(reply: object, expected: bool) -> None:
    """Then the script may be sent again, whole."""
    assert is_unknown_script(reply) is expected

"""Commands as the timeline shows them."""

from __future__ import annotations

import getpass

import pytest

from cachebackend.management.audit_trail import command_text, operator

STANDARD = {"verbosity": 1, "settings": None, "traceback": False, "json": True, "skip_checks": True}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"action": "drain", "timeout": 300.0}, "manage.py x drain timeout=300.0"),
        ({"action": "retry", "all": True, "ids": []}, "manage.py x retry all=True"),
        (
            {"action": "discard", "ids": [(None, 17), ("billing", 18)]},
            "manage.py x discard ids=17,billing:18",
        ),
        ({"action": "plan", "nodes": ["redis://:secret@h:1/0"]}, "manage.py x plan nodes=…"),
        ({"action": "owner", "key": "me@example.org"}, "manage.py x owner key=…"),
    ],
)
def test_a_command_is_shown_with_what_it_was_given(options: dict[str, object], text: str) -> None:
    """Without Django's own options, and without what may be a secret."""
    assert command_text("x", STANDARD | options) == text


def test_the_operator_is_the_user_before_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine; a user without a name has a number."""
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setenv("SUDO_USER", "ann")
    assert operator().startswith("root (ann) on ")

    def fail() -> str:
        raise KeyError

    monkeypatch.setattr(getpass, "getuser", fail)
    monkeypatch.delenv("SUDO_USER")
    assert operator().partition(" on ")[0].isdigit()

